"""Discovered links for a person, as a document, and as the TOML that makes them real."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vbackup.engine.liveness import LIKELY

if TYPE_CHECKING:
    from vbackup.cli.screen import Screen
    from vbackup.engine.discover import Discovery, Proposal


def toml(found: Discovery) -> str:
    """The `[[link]]` blocks, with what was measured; a comment where there is nothing."""
    blocks = ["\n".join(_block(proposal)) for proposal in found.proposals]
    if found.unmatched:
        names = ", ".join(found.unmatched)
        blocks.append(f"# Nothing that points of these refer to was found: {names}")
    return "\n\n".join(blocks) + "\n" if blocks else "# No links were found.\n"


def _block(proposal: Proposal) -> Iterator[str]:
    rows: dict[str, object] = {"table": proposal.table, "key": _one_or_list(proposal.keys)}
    point: dict[str, object] = {"ref": _one_or_list(proposal.refs)}
    if proposal.version:
        rows["version"] = proposal.version.column
        point["version"] = f"payload:{proposal.version.path}"
    if proposal.count:
        rows["count"] = proposal.count
    if proposal.tenant:
        rows["tenant"] = proposal.tenant.column
        point["tenant"] = f"payload:{proposal.tenant.path}"
    if proposal.cardinality != "one":
        point["cardinality"] = proposal.cardinality
    yield f"# {_percent(proposal.match_rate)} of {proposal.sampled:,} sampled points have a row"
    if proposal.match_rate < LIKELY:
        yield f"# CAREFUL: {_rowless(proposal)}"
    if found := proposal.condition:
        rows["live" if found.state else "where"] = found.sql
        yield (
            f"# {_percent(found.inside)} of the sampled rows with {found.sql} have a point,"
            f" {_percent(found.outside)} of the others."
        )
    elif proposal.row_rate is not None and proposal.row_rate < LIKELY:
        yield (
            f"# Only {_percent(proposal.row_rate)} of the sampled rows have a point: say which"
            " should with `live`."
        )
    if not proposal.unique:
        yield f"# {proposal.key} is not unique: say which rows belong here with `where`."
    if not proposal.version:
        yield "# No version was found on both sides: stale points will not be noticed."
    yield "[[link]]"
    yield f"name = {json.dumps(proposal.name)}"
    yield f"collection = {json.dumps(proposal.collection)}"
    yield f"rows = [{_inline(rows)}]"
    yield f"point = {_inline(point)}"


def _one_or_list(names: Sequence[str]) -> object:
    return names[0] if len(names) == 1 else list(names)


def _inline(values: dict[str, object]) -> str:
    inner = ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    return f"{{ {inner} }}"


def document(found: Discovery) -> dict[str, object]:
    """The keys that `--json` adds."""
    return {
        "proposals": [_entry(proposal) for proposal in found.proposals],
        "alternatives": [_entry(proposal) for proposal in found.alternatives],
        "unmatched": found.unmatched,
        "empty": found.empty,
        "toml": toml(found),
    }


def _entry(proposal: Proposal) -> dict[str, object]:
    return {
        "name": proposal.name,
        "collection": proposal.collection,
        "table": proposal.table,
        "key": _one_or_list(proposal.keys),
        "ref": _one_or_list(proposal.refs),
        "match_rate": round(proposal.match_rate, 4),
        "row_rate": None if proposal.row_rate is None else round(proposal.row_rate, 4),
        "sampled": proposal.sampled,
        "cardinality": proposal.cardinality,
        "unique": proposal.unique,
        "version": proposal.version and [proposal.version.column, proposal.version.path],
        "tenant": proposal.tenant and [proposal.tenant.column, proposal.tenant.path],
        "count": proposal.count,
        "condition": proposal.condition
        and {
            "as": "live" if proposal.condition.state else "where",
            "sql": proposal.condition.sql,
            "inside": round(proposal.condition.inside, 4),
            "outside": round(proposal.condition.outside, 4),
        },
        "agrees": proposal.agrees,
    }


def render(screen: Screen, found: Discovery) -> None:
    """A table of what is proposed, and of what else fits."""
    shown = [(p, "proposed") for p in found.proposals] + [
        (p, "also fits") for p in found.alternatives
    ]
    rows = [
        (
            proposal.collection,
            f"{proposal.table}.{proposal.key}",
            proposal.ref,
            _percent(proposal.match_rate),
            "?" if proposal.row_rate is None else _percent(proposal.row_rate),
            proposal.cardinality,
            proposal.version.column if proposal.version else "none",
            verdict,
        )
        for proposal, verdict in shown
    ]
    if rows:
        columns = (
            "COLLECTION",
            "ROWS",
            "POINT",
            "MATCH",
            "ROWS WITH POINT",
            "POINTS",
            "VERSION",
            "",
        )
        styles = ["green" if verdict == "proposed" else "dim" for _, verdict in shown]
        screen.table(columns, rows, right=("MATCH", "ROWS WITH POINT"), styles=styles)
    for proposal in found.proposals:
        if proposal.match_rate < LIKELY:
            screen.line(f"link {proposal.name}: {_rowless(proposal)}", "yellow")
    for name in found.unmatched:
        screen.line(f"no rows found for collection {name}: write its link by hand, or ignore it")
    for name in found.empty:
        screen.line(f"collection {name} is empty: nothing to go by")


def _rowless(proposal: Proposal) -> str:
    return (
        f"{_percent(1 - proposal.match_rate)} of the sampled points have no row by this link, and a"
        " restore would delete such points: look at vbackup reconcile before the first backup"
    )


def _percent(share: float) -> str:
    """Rounded down: 100 % is said of all only."""
    return f"{int(share * 1000) / 10:g} %"
