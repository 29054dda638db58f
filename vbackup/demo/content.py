"""What the application makes of a row: its text, the points that belong to it, their vectors.

Everything here is a pure function of the row, so that anybody holding the row can say exactly
what its points must be.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from random import Random

from vbackup.demo.corpus import Passage
from vbackup.demo.embedding import embed_all
from vbackup.demo.scenario import Scenario

_POINTS = uuid.UUID("6b0f5d0e-6f5c-4f0b-9d0c-76626b707470")
MOST_PARTS = 4
_PART_LENGTH = 230

Key = int | str


@dataclass(frozen=True, slots=True)
class Change:
    """The new state of one key: what its points must become. `text` None: no points."""

    key: Key
    version: int
    text: str | None
    passage: Passage


def revised(passage: Passage, rng: Random) -> str:
    """The passage as an editor left it: no two revisions of a row have the same text."""
    return f"{passage.text}\n\n(revision {rng.getrandbits(64):016x})"


def parts(text: str, scenario: Scenario) -> list[str]:
    """The pieces of a row's text that get a vector each: one, or one to four."""
    if scenario.points == "one":
        return [text]
    count = min(MOST_PARTS, max(1, len(text) // _PART_LENGTH))
    # The revision ends the text: every part carries it, as real chunkers repeat the heading.
    body, _, revision = text.rpartition("\n\n")
    size = -(-len(body) // count)
    return [f"{body[at * size : (at + 1) * size]}\n{revision}" for at in range(count)]


def point_id(key: Key, part: int, scenario: Scenario) -> Key:
    """The id of one point of a row."""
    if scenario.link == "id":
        return key
    name = str(key) if scenario.points == "one" else f"{key}/{part}"
    return str(uuid.uuid5(_POINTS, name))


def points(change: Change, scenario: Scenario) -> list[dict[str, object]]:
    """A row's points as Qdrant's REST takes them; vector and version in the same point."""
    if change.text is None:
        return []
    pieces = parts(change.text, scenario)
    # Six decimals are more than a float32 search needs and halve the size of a request.
    vectors = embed_all(pieces, scenario.dimensions).astype("float64").round(6).tolist()
    return [
        {
            "id": point_id(change.key, part, scenario),
            "vector": vector,
            "payload": {
                "chunk_id": change.key,
                scenario.version_key: change.version,
                "part": part,
                "title": change.passage.title,
                "section": change.passage.section,
            },
        }
        for part, vector in enumerate(vectors)
    ]
