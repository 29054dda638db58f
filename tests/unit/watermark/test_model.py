"""The protocol as a small model, explored exhaustively (docs/guarantees.md, section The model).

Two rows, each in a shard of its own, three writes each (a delete, an insert of the same key, an
update), an indexer or a writer that brings rows and points together as late as it likes, and a
backup that cuts both shards, captures images, takes the watermark and compares. Every interleaving
is visited, for each strategy. The wrong orders are models too, and must fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import pytest

ROWS = (0, 1)
WRITES = 3
DELETED = 1
Pair = tuple[int, int]
Points = tuple[int | None, int | None]


def alive(version: int) -> bool:
    return version != DELETED


def content(version: int) -> int | None:
    """What the row's point must be."""
    return version if alive(version) else None


@dataclass(frozen=True)
class Protocol:
    """What application and backup do. `snapshot_first`: the wrong order. `keyed` False: points do
    not say their version; `margin`: then an image counts only when row and point had no half to
    come, and the watermark waits for the halves that were to come at the cuts (`settle`).
    `release_first`: the fence is let go before the watermark."""

    snapshot_first: bool = False
    capture: bool = True
    compare: bool = True
    keyed: bool = True
    margin: bool = True
    settle: bool = True
    order: Literal["row-first", "point-first"] = "row-first"
    strategy: Literal["capture", "fence", "lock"] = "capture"
    release_first: bool = False


@dataclass(frozen=True)
class State:
    """`rows` and `points` are the live versions; `due` says whose other half is still to be
    written; `cuts` is what each shard snapshot holds ("open" before its cut); `images` are (row,
    said version, true version) captured; `unsure` rows had a half to come at their cut and
    have it still; `seen` are the rows at the watermark; `held`: the backup has
    the fence or the lock (`released` when it had it)."""

    rows: Pair = (0, 0)
    points: Points = (0, 0)
    due: tuple[bool, bool] = (False, False)
    cuts: tuple[object, object] = ("open", "open")
    images: frozenset[tuple[int, int, int | None]] = frozenset()
    unsure: frozenset[int] = frozenset()
    seen: Pair | None = None
    held: bool = False
    released: bool = False

    @property
    def cut(self) -> bool:
        return "open" not in self.cuts


def put(pair: tuple, at: int, value: object) -> tuple:  # type: ignore[type-arg]
    return tuple(value if number == at else held for number, held in enumerate(pair))


def moves(state: State, protocol: Protocol) -> Iterator[State]:
    """Every state that one atomic step can lead to."""
    for row in ROWS:
        yield from written(state, protocol, row)
        if state.cuts[row] == "open" and may_cut(state, protocol):
            unsure = {row} if state.due[row] and not protocol.keyed else set()
            yield replace(
                state,
                cuts=put(state.cuts, row, state.points[row]),
                unsure=state.unsure | unsure,
            )
        yield from captured(state, protocol, row)
    yield from paused(state, protocol)
    if state.seen is None and may_look(state, protocol):
        yield replace(state, seen=state.rows)


def written(state: State, protocol: Protocol, row: int) -> Iterator[State]:
    """The application's half steps. Who holds a fence around both cannot begin while the backup
    has it; a lock keeps rows from being written, points not."""
    fenced = state.held and protocol.strategy == "fence"
    locked = state.held and protocol.strategy == "lock"
    more = state.rows[row] < WRITES
    done = replace(state, due=put(state.due, row, False), unsure=state.unsure - {row})
    if protocol.order == "row-first":
        if more and not (fenced or locked):
            rows = put(state.rows, row, state.rows[row] + 1)
            yield replace(state, rows=rows, due=put(state.due, row, True))
        if state.due[row]:
            points = put(state.points, row, content(state.rows[row]))
            yield replace(done, points=points)
    elif state.due[row]:
        if not locked:
            yield replace(done, rows=put(state.rows, row, state.rows[row] + 1))
    elif more and not fenced:
        points = put(state.points, row, content(state.rows[row] + 1))
        yield replace(state, points=points, due=put(state.due, row, True))


def may_cut(state: State, protocol: Protocol) -> bool:
    if protocol.strategy == "fence":
        return state.held
    return state.seen is not None or not protocol.snapshot_first


def may_look(state: State, protocol: Protocol) -> bool:
    """Whether the watermark may be taken now."""
    if protocol.snapshot_first:
        return True
    if protocol.settle and state.unsure:
        return False
    if protocol.strategy == "capture":
        return state.cut
    return state.cut and (state.released if protocol.release_first else state.held)


def paused(state: State, protocol: Protocol) -> Iterator[State]:
    """The backup takes the fence when no writer has it, or the lock after the cuts; and lets go."""
    if protocol.strategy == "capture" or state.released:
        return
    if state.held:
        looked = state.seen is not None or protocol.release_first
        if state.cut and looked and (protocol.strategy == "fence" or converged(state, protocol)):
            yield replace(state, held=False, released=True)
    elif (protocol.strategy == "fence" and not any(state.due)) or (
        protocol.strategy == "lock" and state.cut
    ):
        yield replace(state, held=True)


def converged(state: State, protocol: Protocol) -> bool:
    """Whether every row's point is in its shard snapshot or captured, as the lock waits for it;
    one that is ahead of its row (its writer stands at the lock) is not waited for."""
    if state.seen is None:
        return False
    return all(
        state.cuts[row] == content(seen)
        or not alive(seen)
        or any(image[:2] == (row, seen) for image in state.images)
        or (protocol.order == "point-first" and state.due[row])
        for row, seen in enumerate(state.seen)
    )


def captured(state: State, protocol: Protocol, row: int) -> Iterator[State]:
    point = state.points[row]
    if not protocol.capture or point is None:
        return
    if protocol.keyed:
        said = point
    elif state.seen is not None or (protocol.margin and state.due[row]):
        return
    else:
        said = state.rows[row]
    yield replace(state, images=state.images | {(row, said, point)})


def finished(state: State, protocol: Protocol) -> bool:
    over = protocol.strategy == "capture" or state.released
    return state.seen is not None and state.cut and over


def restored(state: State, protocol: Protocol) -> tuple[list[object], list[int]]:
    """The points of the restored pair (their true versions, None for none) and the rows on the
    re-embed list."""
    if state.seen is None:
        raise ValueError("no watermark yet")
    points: list[object] = list(state.cuts)
    reembed: list[int] = []
    if not protocol.compare:
        return points, reembed
    for row in ROWS:
        seen = state.seen[row]
        # Without a key, a row unchanged since before the cuts is trusted; others need an image.
        fits = points[row] == content(seen) if protocol.keyed or not alive(seen) else seen == 0
        if fits:
            continue
        images = [true for at, said, true in state.images if (at, said) == (row, seen)]
        points[row] = images[0] if images and alive(seen) else None
        if not images and alive(seen):
            reembed.append(row)
    return points, reembed


@dataclass
class Explored:
    states: int = 0
    ends: int = 0
    wrong: int = 0
    unannounced: int = 0
    reembeds: int = 0


@cache
def explore(protocol: Protocol, *, until_wrong: bool = False) -> Explored:
    """Every state that can be reached, or as many as it takes to find a wrong pair."""
    result = Explored()
    todo, visited = [State()], {State()}
    while todo and not (until_wrong and (result.wrong or result.unannounced)):
        state = todo.pop()
        result.states += 1
        if finished(state, protocol):
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
        wanted = content(state.seen[row]) if state.seen else None
        if points[row] is None:
            result.unannounced += wanted is not None and row not in reembed
        else:
            result.wrong += points[row] != wanted


@pytest.mark.parametrize("order", ["row-first", "point-first"])
@pytest.mark.parametrize("strategy", ["capture", "fence", "lock"])
def test_the_protocol_is_exact_in_every_interleaving(strategy: Any, order: Any) -> None:
    result = explore(Protocol(strategy=strategy, order=order))
    assert (result.wrong, result.unannounced) == (0, 0)
    assert result.ends > 1_000


@pytest.mark.parametrize("order", ["row-first", "point-first"])
def test_under_the_fence_nothing_is_left_to_reembed(order: Any) -> None:
    """Not even a comparison would be needed, if every writer took it."""
    assert explore(Protocol(strategy="fence", order=order)).reembeds == 0
    bare = explore(Protocol(strategy="fence", order=order, compare=False))
    assert (bare.wrong, bare.unannounced) == (0, 0)


def test_under_the_lock_nothing_is_left_to_reembed_when_rows_come_first() -> None:
    assert explore(Protocol(strategy="lock")).reembeds == 0
    assert explore(Protocol(strategy="lock", order="point-first")).reembeds > 0


def test_without_capture_it_is_still_exact_but_leaves_more_to_reembed() -> None:
    bare, full = explore(Protocol(capture=False)), explore(Protocol())
    assert (bare.wrong, bare.unannounced) == (0, 0)
    assert bare.reembeds / bare.ends > full.reembeds / full.ends


@pytest.mark.parametrize("order", ["row-first", "point-first"])
def test_without_a_version_key_the_lag_margin_keeps_it_exact(order: Any) -> None:
    result = explore(Protocol(keyed=False, order=order))
    assert (result.wrong, result.unannounced) == (0, 0)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(snapshot_first=True, capture=False, compare=False),
        Protocol(capture=False, compare=False),
        Protocol(keyed=False, margin=False),
        Protocol(keyed=False, margin=False, order="point-first"),
        Protocol(keyed=False, settle=False, order="point-first"),
        Protocol(strategy="fence", compare=False, release_first=True),
    ],
    ids=[
        "snapshot first, no comparison",
        "no comparison",
        "no key and no lag margin",
        "no key, no lag margin, the point first",
        "no key, watermark at once, the point first",
        "watermark after the fence, no comparison",
    ],
)
def test_the_wrong_orders_give_wrong_pairs(protocol: Protocol) -> None:
    result = explore(protocol, until_wrong=True)
    assert result.wrong or result.unannounced
