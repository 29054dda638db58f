"""Questions asked of the application: before the disaster, after it, and of the rows alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psycopg

from vbackup.demo.content import parts, point_id
from vbackup.demo.embedding import embed, embed_all
from vbackup.demo.point_store import PointStore
from vbackup.demo.scenario import Scenario

QUESTIONS = (
    "raise an exception inside an except clause",
    "list comprehension and generator expressions",
    "define a function with default parameter values",
    "the with statement and context managers",
    "remove an item from a dictionary",
)
HITS = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a nearest-neighbour search found: `hits` are point ids, `title` the best one's."""

    question: str
    title: str
    score: float
    hits: frozenset[str]


def search(store: PointStore, scenario: Scenario, section: str = "") -> list[Answer]:
    """Ask for the nearest, exactly, in the whole store or in one section of it."""
    answers = []
    for question in QUESTIONS:
        vector = embed(question, scenario.dimensions).tolist()
        found = store.search(vector, HITS, section=section)
        hits = frozenset(str(point["id"]) for point in found)
        title, score = (found[0]["payload"]["title"], found[0]["score"]) if found else ("", 0.0)
        answers.append(Answer(question, title, score, hits))
    return answers


def computed(dsn: str, scenario: Scenario) -> list[Answer]:
    """What the rows' own texts say the answers must be, without any index."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT chunks.id, text, title FROM chunks JOIN documents ON document_id = documents.id"
            " WHERE status = 'published'"
        ).fetchall()
    pieces = [
        (str(point_id(key if isinstance(key, int) else str(key), part, scenario)), title, piece)
        for key, text, title in rows
        for part, piece in enumerate(parts(text, scenario))
    ]
    vectors = embed_all([piece for _, _, piece in pieces], scenario.dimensions)
    answers = []
    for question in QUESTIONS:
        scores = vectors @ embed(question, scenario.dimensions)
        best = np.argsort(-scores)[:HITS]
        hits = frozenset(pieces[index][0] for index in best)
        answers.append(Answer(question, pieces[best[0]][1], float(scores[best[0]]), hits))
    return answers
