"""The image and the Makefile say what the documentation promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MAJORS = (14, 15, 16, 17, 18)

Instruction = tuple[str, str]


@pytest.fixture
def instructions() -> list[Instruction]:
    """The Dockerfile as (keyword, arguments); continued lines joined, comments left out."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(keyword, arguments) for keyword, arguments in found]


def arguments(instructions: list[Instruction], keyword: str) -> list[str]:
    return [given for name, given in instructions if name == keyword]


def test_every_instruction_is_one_that_docker_knows(instructions: list[Instruction]) -> None:
    known = {
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "ARG",
        "USER",
        "VOLUME",
        "EXPOSE",
        "ENTRYPOINT",
        "CMD",
    }
    assert {keyword for keyword, _ in instructions} <= known
    assert instructions[0][0] == "FROM"


def test_it_is_built_in_stages(instructions: list[Instruction]) -> None:
    stages = [given.rsplit(" AS ", 1)[1] for given in arguments(instructions, "FROM")]
    assert stages == ["build", "runtime"]
    copied = [given for given in arguments(instructions, "COPY") if given.startswith("--from=")]
    assert copied == ["--from=build /opt/vbackup /opt/vbackup"]


def test_it_does_not_run_as_root(instructions: list[Instruction]) -> None:
    user = arguments(instructions, "USER")[-1]
    assert user.split(":")[0].isdigit()
    assert int(user.split(":")[0]) > 0
    keywords = [keyword for keyword, _ in instructions]
    assert "RUN" not in keywords[keywords.index("USER") :]


def test_it_starts_vbackup(instructions: list[Instruction]) -> None:
    assert json.loads(arguments(instructions, "ENTRYPOINT")[-1])[-1] == "vbackup"


@pytest.mark.parametrize("major", MAJORS)
def test_it_has_the_client_tools_of_every_major(
    instructions: list[Instruction], major: int
) -> None:
    (majors,) = (each for each in arguments(instructions, "ARG") if each.startswith("PG_MAJORS="))
    assert str(major) in majors.partition("=")[2].strip('"').split()
    assert any("postgresql-client-$major" in given for given in arguments(instructions, "RUN"))


def test_what_it_copies_is_not_ignored(instructions: list[Instruction]) -> None:
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    sources = {
        source
        for given in arguments(instructions, "COPY")
        if not given.startswith("--from=")
        for source in given.split()[:-1]
    }
    assert {source.removeprefix("./").partition("/")[0] for source in sources} == kept
    assert all((ROOT / source).exists() for source in kept)


@pytest.mark.parametrize("target", ["demo", "test", "lint", "torture", "soak", "containers"])
def test_the_makefile_has_the_promised_targets(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert re.search(rf"^\.PHONY:.*\b{target}\b", makefile, re.MULTILINE)
