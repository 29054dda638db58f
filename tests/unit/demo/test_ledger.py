"""One writer a key, and states that follow the writes."""

from __future__ import annotations

from random import Random

from vbackup.demo.corpus import Passage
from vbackup.demo.ledger import Ledger

PASSAGE = Passage("title", "section", "text")


def test_a_taken_key_is_nobody_elses_until_it_is_released() -> None:
    ledger, rng = Ledger("int"), Random(1)
    key = ledger.fresh(rng, PASSAGE)
    assert ledger.take(rng, "published") is None

    ledger.release(key, "published")

    assert ledger.take(rng, "published") == key
    assert ledger.take(rng, "published") is None


def test_keys_move_between_states_and_are_never_lost() -> None:
    ledger, rng = Ledger("uuid"), Random(1)
    keys = {ledger.fresh(rng, PASSAGE) for _ in range(50)}
    for key in keys:
        ledger.release(key, "published")
    for _ in range(30):
        taken = ledger.take(rng, "published")
        assert taken is not None
        ledger.release(taken, "deleted")

    left = [ledger.take(rng, "published") for _ in range(20)]
    gone = [ledger.take(rng, "deleted") for _ in range(30)]

    assert set(left) | set(gone) == keys
    assert ledger.take(rng, "published") is None
    assert ledger.take(rng, "deleted") is None


def test_hot_keys_are_drawn_on_demand_only() -> None:
    ledger, rng = Ledger("int"), Random(1)
    first, second = (ledger.fresh(rng, PASSAGE) for _ in range(2))
    for key in (first, second):
        ledger.release(key, "published")
    ledger.heat([first])

    assert ledger.take(rng, "published") == second
    assert ledger.take(rng, "published", hot=True) == first
    ledger.release(first, "published")
    assert ledger.take(rng, "published", hot=True) == first


def test_the_passage_of_a_key_is_remembered() -> None:
    ledger = Ledger("int")

    assert ledger.passage(ledger.fresh(Random(1), PASSAGE)) == PASSAGE
