# vbackup with the PostgreSQL client tools of every supported major version.
#
#   docker build -t vbackup .
#   sudo chown -R 10001:10001 .     # what `vbackup init` made here is its owner's alone (0600)
#   docker run --rm -v "$PWD:/work" -e DATABASE_URL vbackup backup
#
# The configuration is read from /work/vbackup.toml; the repository is best a bucket. The image
# runs as 10001:10001, without capabilities and on a read-only root: only /work, /var/lib/vbackup
# and /var/tmp/vbackup are written. It has no PostgreSQL server and no npm: a drill in it needs
# `[drill] postgres` and `qdrant`.

# ---- the wheel and all its dependencies, in a virtual environment that is copied as a whole
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY vbackup/__init__.py ./vbackup/
# A layer of its own for the dependencies: it stays while only vbackup's code changes.
RUN python -m venv /opt/vbackup \
    && /opt/vbackup/bin/pip install --no-cache-dir --disable-pip-version-check '.[edge,redis,notify]'
COPY vbackup ./vbackup
RUN /opt/vbackup/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --force-reinstall . \
    && /opt/vbackup/bin/pip uninstall --yes --quiet pip setuptools

# ---- what runs
FROM python:3.11-slim-bookworm AS runtime

# pg_dump refuses a server that is newer than itself, and its archives are best read by the same
# major version: all of them live side by side in /usr/lib/postgresql/<major>/bin, where vbackup
# looks for the one that fits. They come from the PostgreSQL project's repository, or a mirror.
ARG PG_MAJORS="14 15 16 17 18"
ARG PGDG_URL=https://apt.postgresql.org/pub/repos/apt
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates postgresql-common tini \
    && . /etc/os-release \
    && printf '%s\n' 'Types: deb' "URIs: $PGDG_URL" "Suites: $VERSION_CODENAME-pgdg" \
        'Components: main' \
        'Signed-By: /usr/share/postgresql-common/pgdg/apt.postgresql.org.gpg' \
        > /etc/apt/sources.list.d/pgdg.sources \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        $(for major in $PG_MAJORS; do echo "postgresql-client-$major"; done) \
    && rm -rf /var/lib/apt/lists/*

COPY --from=build /opt/vbackup /opt/vbackup
RUN groupadd --system --gid 10001 vbackup \
    && useradd --system --uid 10001 --gid vbackup --home-dir /work --shell /usr/sbin/nologin vbackup \
    && install -d -o vbackup -g vbackup /work /var/tmp/vbackup /var/lib/vbackup

ENV PATH=/opt/vbackup/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TMPDIR=/var/tmp/vbackup

USER 10001:10001
WORKDIR /work
VOLUME ["/var/tmp/vbackup"]
EXPOSE 9187

# tini hands SIGTERM on and reaps pg_dump's children: a stopped container ends with exit code 130.
ENTRYPOINT ["/usr/bin/tini", "--", "vbackup"]
CMD ["--help"]
