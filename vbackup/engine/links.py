"""From the configuration to links, and from links to the collections that exist."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vbackup.config import Config, LinkConfig, PointConfig, RowsConfig
from vbackup.errors import Usage
from vbackup.model.link import Link, PayloadPath, RowSource

_PAYLOAD = "payload:"
_COLUMNS = ("where", "live", "version", "count", "tenant")


@dataclass(frozen=True, slots=True)
class Target:
    """A link and the collections it matches right now."""

    link: Link
    collections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resolution:
    """Links with their collections, and what a person should know about the rest."""

    targets: tuple[Target, ...]
    warnings: tuple[str, ...]


def links_of(config: Config) -> tuple[Link, ...]:
    """The links of a configuration. Raises Usage that names every mistake by its key path."""
    mistakes: list[str] = []
    links = [_link(entry, f"link[{number}]", mistakes) for number, entry in enumerate(config.link)]
    names = [entry.name for entry in config.link]
    mistakes += [
        f"link[{number}].name: {name!r} is taken by an earlier link"
        for number, name in enumerate(names)
        if name in names[:number]
    ]
    if mistakes:
        raise Usage("; ".join(mistakes), hint="correct [[link]] in the configuration file")
    return tuple(links)


def _link(entry: LinkConfig, path: str, mistakes: list[str]) -> Link:
    _check_rows(entry, path, mistakes)
    ref = _refs(entry.point, f"{path}.point.ref", mistakes)
    if not entry.name:
        mistakes.append(f"{path}.name: is empty")
    if not entry.collection.strip():
        mistakes.append(f"{path}.collection: is empty")
    _check_parts(entry, len(ref) or 1, path, mistakes)
    return Link(
        name=entry.name,
        collection=entry.collection,
        rows=tuple(RowSource(**source.model_dump()) for source in entry.rows),
        ref=ref,
        version=_path(entry.point.version, f"{path}.point.version", mistakes),
        cardinality=entry.point.cardinality,
        filter=dict(entry.point.filter),
        must_not=dict(entry.point.must_not),
        tenant=_path(entry.point.tenant, f"{path}.point.tenant", mistakes),
        not_live=entry.not_live,
    )


def _check_rows(entry: LinkConfig, path: str, mistakes: list[str]) -> None:
    if not entry.rows:
        mistakes.append(f"{path}.rows: needs a table or an sql")
    for number, source in enumerate(entry.rows):
        mistakes += [f"{path}.rows[{number}]{text}" for text in _source_mistakes(source)]
    tables = [source for source in entry.rows if source.table]
    if len({source.version is None for source in tables}) > 1:
        mistakes.append(f"{path}.rows: either all tables say a version or none does")


def _source_mistakes(source: RowsConfig) -> list[str]:
    if bool(source.table) == bool(source.sql):
        return [": needs either table or sql"]
    if source.table:
        return [] if source.key else [".key: is missing"]
    return [
        f".{name}: does not go with sql; select it as a column"
        for name in _COLUMNS
        if getattr(source, name) is not None
    ]


def _check_parts(entry: LinkConfig, parts: int, path: str, mistakes: list[str]) -> None:
    """A composite key needs as many references as columns."""
    for number, source in enumerate(entry.rows):
        if source.key and len(source.key) != parts:
            mistakes.append(
                f"{path}.rows[{number}].key: has {len(source.key)} parts, but point.ref has {parts}"
            )


def _refs(point: PointConfig, path: str, mistakes: list[str]) -> tuple[PayloadPath, ...]:
    if point.ref == ("id",):
        return ()
    if not point.ref:
        mistakes.append(f"{path}: is empty")
    found = []
    for text in point.ref:
        if text == "id":
            mistakes.append(f"{path}: `id` cannot be one part of a composite reference")
        elif not text.startswith(_PAYLOAD):
            mistakes.append(f"{path}: {text!r} is neither `id` nor `payload:<path>`")
        elif (parsed := _path(text, path, mistakes)) is not None:
            found.append(parsed)
    return tuple(found)


def _path(text: str | None, path: str, mistakes: list[str]) -> PayloadPath | None:
    if text is None:
        return None
    try:
        return PayloadPath.parse(text.removeprefix(_PAYLOAD))
    except ValueError as error:
        mistakes.append(f"{path}: {error}")
        return None


def resolve(
    links: Sequence[Link],
    ignore: Collection[str],
    names: Mapping[str, Collection[str]] | Collection[str],
) -> Resolution:
    """Match links with the collections that exist: `names`, or a mapping of names to aliases.

    A pattern is a name or glob, or several separated by commas, `!pattern` leaving some out;
    an alias counts as a name of its collection. Ignored collections belong to no glob, only to
    a link that names one exactly.
    """
    aliases = (
        {name: tuple(found) for name, found in names.items()}
        if isinstance(names, Mapping)
        else dict.fromkeys(names, ())
    )
    ignored = {name for name, also in aliases.items() if _matches(ignore, (name, *also))}
    targets = tuple(Target(link, _collections(link, aliases, ignored)) for link in links)
    return Resolution(targets, tuple(_warnings(targets, aliases, ignored)))


def _collections(
    link: Link, aliases: Mapping[str, tuple[str, ...]], ignored: Collection[str]
) -> tuple[str, ...]:
    patterns = [part.strip() for part in link.collection.split(",")]
    return tuple(
        name
        for name, also in sorted(aliases.items())
        if link.collection in (name, *also)
        or (_matches(patterns, (name, *also)) and (name not in ignored or name in patterns))
    )


def _matches(patterns: Collection[str], names: Collection[str]) -> bool:
    """Whether one of the names fits a pattern and none fits a `!pattern`."""
    wanted = [p for p in patterns if not p.startswith("!")]
    unwanted = [p.removeprefix("!") for p in patterns if p.startswith("!")]
    return _fits(wanted, names) and not _fits(unwanted, names)


def _fits(patterns: Collection[str], names: Collection[str]) -> bool:
    return any(p == name or fnmatchcase(name, p) for p in patterns for name in names)


def _warnings(
    targets: Sequence[Target],
    aliases: Mapping[str, tuple[str, ...]],
    ignored: Collection[str],
) -> list[str]:
    linked = {name for target in targets for name in target.collections}
    found = [
        f"link {target.link.name!r} matches no collection ({target.link.collection})"
        for target in targets
        if not target.collections
    ]
    found += [
        f"link {target.link.name!r} says a version only for its {side}: versions are not compared"
        for target in targets
        if (side := _lone_version(target.link))
    ]
    found += [
        f"collection {name!r} has no link and is not ignored: its points are not compared"
        for name in sorted(aliases)
        if name not in linked and name not in ignored
    ]
    return found


def _lone_version(link: Link) -> str:
    if link.version and not link.row_versions:
        return "points"
    if not link.version and any(source.version for source in link.rows):
        return "rows"
    return ""
