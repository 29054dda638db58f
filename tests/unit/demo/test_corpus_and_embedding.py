"""The demo's text is real, and its embedding means something."""

from __future__ import annotations

import numpy as np
import pytest

from vbackup.demo.corpus import LONGEST, library
from vbackup.demo.corpus import cut as cut_text
from vbackup.demo.embedding import embed, embed_all


def test_there_are_a_few_thousand_passages_of_search_length() -> None:
    lengths = [len(passage.text) for passage in library()]

    assert len(lengths) > 1_500
    assert max(lengths) <= 2 * LONGEST
    assert sum(400 <= length <= LONGEST for length in lengths) > 0.7 * len(lengths)


def test_cutting_loses_no_paragraph() -> None:
    paragraphs = [f"paragraph {n} " + "word " * n for n in range(60)]

    joined = "\n\n".join(cut_text("\n\n".join(paragraphs)))

    assert [p for p in paragraphs if p.strip() not in joined] == []


def test_a_paragraph_longer_than_a_passage_is_cut_at_spaces() -> None:
    pieces = list(cut_text("word " * 1_000))

    assert max(len(piece) for piece in pieces) <= LONGEST
    assert sum(piece.count("word") for piece in pieces) == 1_000


def test_vectors_are_unit_float32_of_the_asked_size() -> None:
    vectors = embed_all(["one", "two words", ""], 96)

    assert vectors.shape == (3, 96)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_no_texts_give_no_vectors() -> None:
    assert embed_all([], 64).shape == (0, 64)


def test_a_vector_is_the_same_on_every_machine() -> None:
    # A golden value: a change here breaks the proof on data that was written before.
    vector = embed("PostgreSQL is the record", 64)

    assert vector[:8].tolist() == pytest.approx(
        [0.2097, 0.1816, 0.1816, -0.1482, 0.2097, 0.0, 0.0, -0.1482], abs=1e-4
    )


def test_one_changed_character_changes_the_vector() -> None:
    text = library()[0].text

    assert np.abs(embed(f"{text} 1", 96) - embed(f"{text} 2", 96)).max() > 1e-3


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("parse command line arguments with options", "optparse"),
        ("raise an exception inside an except clause", "try"),
        ("read archive members of a tar file", "tarfile"),
    ],
)
def test_a_question_finds_the_passage_that_answers_it(question: str, title: str) -> None:
    vectors = embed_all([passage.text for passage in library()], 256)

    nearest = np.argsort(-(vectors @ embed(question, 256)))[:3]

    assert title in {library()[index].title for index in nearest}
