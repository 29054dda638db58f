"""Everything that is wrong with a configuration, in one go: key path, reason, suggestion."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vbackup.config import Config

_PARSED = ", unable to parse string as an integer"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with the file; `key` is its path, such as `link[0].rows[1].key`."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


def validate(
    values: dict[str, Any], directory: Path, earlier: Sequence[Mistake] = ()
) -> tuple[Config | None, list[Mistake]]:
    """The configuration, and every mistake, each key once; `earlier` ones count first."""
    config, found = None, list(earlier)
    try:
        config = Config.model_validate(values, context={"directory": directory})
    except ValidationError as error:
        found += [_mistake(item) for item in _innermost(error.errors(include_url=False))]
    found += _cross_checks(values)
    # What is wrong because its variable is unset needs no second complaint.
    by_key: dict[str, Mistake] = {}
    for mistake in found:
        by_key.setdefault(mistake.key, mistake)
    return config, list(by_key.values())


def _innermost(items: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without complaints about a whole of which a part is already complained about."""
    places = [item["loc"] for item in items]
    return [
        item
        for item in items
        if not any(
            len(p) > len(item["loc"]) and p[: len(item["loc"])] == item["loc"] for p in places
        )
    ]


def _mistake(item: ErrorDetails) -> Mistake:
    loc = item["loc"]
    key = _key(loc)
    if item["type"] == "missing":
        section = len(loc) == 1
        return Mistake(key, f"missing section [{key}]" if section else "missing")
    if item["type"] == "extra_forbidden":
        return Mistake(key, "unknown key" + _suggestion(loc))
    if item["type"] in ("tuple_type", "list_type"):
        return Mistake(key, 'must be a list, such as ["a", "b"]')
    if item["type"] == "too_short":
        return Mistake(key, "must not be empty")
    said = item["msg"].removeprefix("Value error, ").removesuffix(_PARSED)
    return Mistake(key, said.replace("Input should be", "must be"))


def _cross_checks(values: Mapping[str, Any]) -> Iterator[Mistake]:
    """Rules between sections; on raw values, so that they are reported with everything else."""
    vectors = values.get("vectors")
    engine = vectors.get("engine") if isinstance(vectors, dict) else None
    if "qdrant" not in values and engine != "pgvector":
        yield Mistake("qdrant", "missing section [qdrant]")
    yield from _vector_checks(values, pgvector=engine == "pgvector")
    yield from _passphrase_check(values.get("repository"))
    yield from _duplicate_links(values.get("link"))


def _vector_checks(values: Mapping[str, Any], *, pgvector: bool) -> Iterator[Mistake]:
    """Points are in Qdrant, or vectors are in the database: one of them."""
    if pgvector and "qdrant" in values:
        yield Mistake("qdrant", 'vectors.engine is "pgvector": remove this section')
    links = values.get("link")
    for number, link in enumerate(links if isinstance(links, list) else []):
        if not isinstance(link, dict) or pgvector == ("vectors" in link):
            continue
        reason = (
            'missing: vectors.engine is "pgvector"; name the column of the vectors'
            if pgvector
            else 'is for vectors.engine = "pgvector"'
        )
        yield Mistake(f"link[{number}].vectors", reason)


def _passphrase_check(repository: object) -> Iterator[Mistake]:
    if not isinstance(repository, dict):
        return
    given = [n for n in ("passphrase", "passphrase_file", "passphrase_command") if n in repository]
    if repository.get("encryption", "passphrase") == "passphrase" and not given:
        yield Mistake(
            "repository.passphrase",
            'missing: encryption is "passphrase"; set passphrase, passphrase_file or'
            ' passphrase_command (or encryption = "none")',
        )
    if len(given) > 1:
        yield Mistake(f"repository.{given[-1]}", f"only one of {', '.join(given)} may be set")


def _duplicate_links(links: object) -> Iterator[Mistake]:
    seen: set[object] = set()
    for number, link in enumerate(links if isinstance(links, list) else []):
        name = link.get("name") if isinstance(link, dict) else None
        if isinstance(name, str) and name in seen:
            yield Mistake(f"link[{number}].name", f"another link is named {name!r}")
        seen.add(name if isinstance(name, str) else None)


def _suggestion(loc: tuple[int | str, ...]) -> str:
    """`, did you mean X?` for a key that looks like one that exists."""
    model: type[BaseModel] | None = Config
    for step in loc[:-1]:
        if isinstance(step, str) and model is not None:
            model = section_model(model, step)
    names = list(model.model_fields) if model else []
    wrong = str(loc[-1])
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    if close:
        return f", did you mean {close[0]}?"
    home = [section for section in Config.model_fields if wrong in _names_of(section)]
    return f", it belongs into [{home[0]}]" if home else ""


def _names_of(section: str) -> list[str]:
    model = section_model(Config, section)
    return list(model.model_fields) if model else []


def section_model(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model that a field holds (alone, optional, or in a tuple), if it holds one."""
    info = model.model_fields.get(name)
    pending: list[Any] = [info.annotation] if info else []
    while pending:
        candidate = pending.pop()
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
        pending += get_args(candidate)
    return None


def summary(path: Path, mistakes: list[Mistake]) -> str:
    count = f"{len(mistakes)} mistakes" if len(mistakes) != 1 else "1 mistake"
    return "\n".join([f"{count} in {path}", *(f"  {mistake}" for mistake in mistakes)])


def join_key(key: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{key}[{step}]"
    return f"{key}.{step}" if key else step


def _key(loc: tuple[int | str, ...]) -> str:
    key = ""
    for step in loc:
        key = join_key(key, step)
    return key
