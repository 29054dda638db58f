# vbackup with the PostgreSQL client tools of every supported major version.
#
#   docker build -t vbackup .
#   docker run --rm -v "$PWD:/work" -e DATABASE_URL vbackup backup
#
# The configuration is read from /work/vbackup.toml; the repository is best a bucket.

# ---- the wheel and all its dependencies, in a virtual environment that is copied as a whole
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY vbackup ./vbackup
RUN python -m venv /opt/vbackup \
    && /opt/vbackup/bin/pip install --no-cache-dir --disable-pip-version-check '.[edge,redis,notify]'

# ---- what runs
FROM python:3.11-slim-bookworm AS runtime

# pg_dump refuses a server that is newer than itself, and its archives are best read by the same
# major version: all of them live side by side in /usr/lib/postgresql/<major>/bin, where vbackup
# looks for the one that fits. Debian's own script sets up the PostgreSQL project's repository.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates postgresql-common tini \
    && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
    && apt-get install -y --no-install-recommends \
        postgresql-client-14 \
        postgresql-client-15 \
        postgresql-client-16 \
        postgresql-client-17 \
        postgresql-client-18 \
    && rm -rf /var/lib/apt/lists/*

COPY --from=build /opt/vbackup /opt/vbackup
RUN useradd --system --uid 10001 --user-group --home-dir /work --shell /usr/sbin/nologin vbackup \
    && install -d -o vbackup -g vbackup /work /var/tmp/vbackup

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
