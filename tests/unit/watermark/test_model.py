"""The protocol as a small model, explored exhaustively (docs/guarantees.md, section The model).

Two rows, each in a shard of its own, two writes each (the second writer's may come any time),
an indexer that writes a row's current version to its point as late as it likes, and a backup
that cuts both shards, captures images, takes the watermark and compares. Every interleaving
is visited. The wrong orders are models too, and must fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

ROWS = (0, 1)
WRITES = 2
Pair = tuple[int, int]


@dataclass(frozen=True)
class Protocol:
    """What a backup does. `snapshot_first`: the wrong order. `keyed` False: points do not say
    their version; `margin`: then an image counts only when the indexer has caught up."""

    snapshot_first: bool = False
    capture: bool = True
    compare: bool = True
    keyed: bool = True
    margin: bool = True


@dataclass(frozen=True)
class State:
    """`rows` and `points` are the live versions; `due` says which rows the indexer must still
    visit; `cuts` is what each shard snapshot holds; `images` are (row, said version, true
    version) captured; `seen` the rows at the watermark."""

    rows: Pair = (1, 1)
    points: Pair = (1, 1)
    due: tuple[bool, bool] = (False, False)
    cuts: tuple[int | None, int | None] = (None, None)
    images: frozenset[tuple[int, int, int]] = frozenset()
    seen: Pair | None = None


def put(pair: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg]
    return tuple(value if number == at else held for number, held in enumerate(pair))


def moves(state: State, protocol: Protocol) -> Iterator[State]:
    """Every state that one atomic step can lead to."""
    for row in ROWS:
        if state.rows[row] < 1 + WRITES:
            yield replace(
                state,
                rows=put(state.rows, row, state.rows[row] + 1),
                due=put(state.due, row, True),
            )
        if state.due[row]:
            yield replace(
                state,
                points=put(state.points, row, state.rows[row]),
                due=put(state.due, row, False),
            )
        if state.cuts[row] is None and (state.seen is not None or not protocol.snapshot_first):
            yield replace(state, cuts=put(state.cuts, row, state.points[row]))
        yield from captured(state, protocol, row)
    cut = None not in state.cuts
    if state.seen is None and (cut or protocol.snapshot_first):
        yield replace(state, seen=state.rows)


def captured(state: State, protocol: Protocol, row: int) -> Iterator[State]:
    if not protocol.capture or state.seen is not None:
        return
    if protocol.keyed:
        said = state.points[row]
    elif protocol.margin and state.due[row]:
        return
    else:
        said = state.rows[row]
    yield replace(state, images=state.images | {(row, said, state.points[row])})


def finished(state: State) -> bool:
    return state.seen is not None and None not in state.cuts


def restored(state: State, protocol: Protocol) -> tuple[list[int | None], list[int]]:
    """The points of the restored pair (their true versions, None for none) and the rows on the
    re-embed list."""
    if state.seen is None:
        raise ValueError("no watermark yet")
    points: list[int | None] = list(state.cuts)
    reembed: list[int] = []
    if not protocol.compare:
        return points, reembed
    for row in ROWS:
        # Without a key, a row unchanged since before the cuts is trusted; others need an image.
        fits = points[row] == state.seen[row] if protocol.keyed else state.seen[row] == 1
        if fits:
            continue
        images = [true for at, said, true in state.images if (at, said) == (row, state.seen[row])]
        points[row] = images[0] if images else None
        if not images:
            reembed.append(row)
    return points, reembed


@dataclass
class Explored:
    states: int = 0
    ends: int = 0
    wrong: int = 0
    unannounced: int = 0
    reembeds: int = 0


def explore(protocol: Protocol) -> Explored:
    result = Explored()
    todo, visited = [State()], {State()}
    while todo:
        state = todo.pop()
        result.states += 1
        if finished(state):
            judge(state, protocol, result)
        for following in moves(state, protocol):
            if following not in visited:
                visited.add(following)
                todo.append(following)
    return result


def judge(state: State, protocol: Protocol, result: Explored) -> None:
    points, reembed = restored(state, protocol)
    result.ends += 1
    result.reembeds += bool(reembed)
    for row in ROWS:
        if points[row] is None:
            result.unannounced += row not in reembed
        elif state.seen is not None:
            result.wrong += points[row] != state.seen[row]


def test_the_protocol_is_exact_in_every_interleaving() -> None:
    result = explore(Protocol())
    assert (result.wrong, result.unannounced) == (0, 0)
    assert result.ends > 1_000


def test_without_capture_it_is_still_exact_but_leaves_more_to_reembed() -> None:
    bare, full = explore(Protocol(capture=False)), explore(Protocol())
    assert (bare.wrong, bare.unannounced) == (0, 0)
    assert bare.reembeds / bare.ends > full.reembeds / full.ends


def test_without_a_version_key_the_lag_margin_keeps_it_exact() -> None:
    result = explore(Protocol(keyed=False))
    assert (result.wrong, result.unannounced) == (0, 0)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(snapshot_first=True, capture=False, compare=False),
        Protocol(capture=False, compare=False),
        Protocol(keyed=False, margin=False),
    ],
    ids=["snapshot first, no comparison", "no comparison", "no key and no lag margin"],
)
def test_the_wrong_orders_give_wrong_pairs(protocol: Protocol) -> None:
    assert explore(protocol).wrong > 0
