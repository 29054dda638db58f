"""Shell that people copy out of the documentation, and our own scripts, through shellcheck."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploy.conftest import Checker

ROOT = Path(__file__).parents[3]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md")
SCRIPTS = (
    ".ci/run",
    "deploy/compose/setup.sh",
    "tests/containers/images/postgres/docker-entrypoint.sh",
)


def snippets() -> Iterator[Any]:
    for page in PAGES:
        blocks = re.findall(
            r"^```(?:console|sh|bash|shell)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        )
        for number, block in enumerate(blocks, 1):
            yield pytest.param(block, id=f"{page.stem}-{number}")


def typed(block: str) -> str:
    """What is typed: with prompts, only the lines behind them; `…` and NAME stand for words."""
    lines = block.splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return "\n".join(lines).replace("…", "x") + "\n"


@pytest.mark.parametrize("block", list(snippets()))
def test_shell_in_the_documentation(block: str, tmp_path: Path, checker: Checker) -> None:
    script = tmp_path / "snippet.sh"
    script.write_text(typed(block))
    done = checker("shellcheck", "--shell=bash", script)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_our_own_scripts(name: str, checker: Checker) -> None:
    done = checker("shellcheck", ROOT / name)
    assert done.returncode == 0, done.stdout
