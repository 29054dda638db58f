"""From the configuration to links, and from links to the collections that exist."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vbackup.config import Config
from vbackup.config_links import PAYLOAD, LinkConfig
from vbackup.errors import Usage
from vbackup.model.link import Link, PayloadPath, RowSource, VectorSource

NAMED = 3
"""Collections without a link that get a line of their own."""


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
    """The links of a configuration, each of which is valid by itself (config.LinkConfig).

    Raises Usage that names every mistake between them by its key path."""
    mistakes = [
        f"link[{number}].{mistake}"
        for number, entry in enumerate(config.link)
        for mistake in _mistakes(entry, config.link[:number])
    ]
    if mistakes:
        raise Usage("; ".join(mistakes), hint="correct [[link]] in the configuration file")
    return tuple(_link(entry) for entry in config.link)


def _mistakes(entry: LinkConfig, earlier: Sequence[LinkConfig]) -> Iterator[str]:
    if any(other.name == entry.name for other in earlier):
        yield f"name: {entry.name!r} is taken by an earlier link"
    if len({source.version is None for source in entry.rows if source.table}) > 1:
        yield "rows: either all tables say a version or none does"


def _link(entry: LinkConfig) -> Link:
    point = entry.point
    return Link(
        name=entry.name,
        collection=entry.collection,
        rows=tuple(RowSource(**source.model_dump()) for source in entry.rows),
        ref=() if point.ref == ("id",) else tuple(_path(ref) for ref in point.ref),
        version=_path(point.version) if point.version else None,
        cardinality=point.cardinality,
        filter=dict(point.filter),
        must_not=dict(point.must_not),
        tenant=_path(point.tenant) if point.tenant else None,
        not_live=entry.not_live,
        immutable=entry.immutable,
        vectors=VectorSource(**entry.vectors.model_dump()) if entry.vectors else None,
    )


def _path(text: str) -> PayloadPath:
    return PayloadPath.parse(text.removeprefix(PAYLOAD))


def vector_collections(links: Sequence[Link]) -> dict[str, tuple[str, ...]]:
    """The names under which links compare vectors that pgvector keeps; none has an alias."""
    return {link.collection: () for link in links if link.vectors}


def by_alias(names: Mapping[str, Collection[str]]) -> dict[str, str]:
    """The collection that each alias stands for, of collections with their aliases."""
    return {alias: name for name, aliases in names.items() for alias in aliases}


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
    return found + _unlinked([n for n in sorted(aliases) if n not in linked and n not in ignored])


def _unlinked(names: Sequence[str]) -> list[str]:
    """One line each, while they are few."""
    if len(names) <= NAMED:
        return [
            f"collection {name!r} has no link and is not ignored: its points are not compared"
            for name in names
        ]
    first = ", ".join(map(repr, names[:NAMED]))
    return [
        f"{len(names):,} collections have no link and are not ignored, their points are not"
        f" compared: {first} and {len(names) - NAMED:,} more"
    ]


def _lone_version(link: Link) -> str:
    if link.point_versions and not link.row_versions:
        return "points"
    if not link.point_versions and any(source.version for source in link.rows):
        return "rows"
    return ""
