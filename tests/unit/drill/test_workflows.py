"""The ready workflows parse, and call what exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from vbackup.cli.main import cli

CI = Path(__file__).parents[3] / "deploy/ci"
COMMAND = re.compile(r"vbackup (?:--json )?(verify [^>\n]*)")


def load(name: str) -> Any:
    return yaml.safe_load((CI / name).read_text(encoding="utf-8"))


def test_github_actions() -> None:
    workflow = load("github-actions.yml")
    # YAML 1.1 reads the key `on` as true.
    triggers = workflow[True]
    assert triggers["schedule"][0]["cron"].count(" ") == 4
    steps = workflow["jobs"]["drill"]["steps"]
    assert all("uses" in step or "run" in step for step in steps)
    upload = steps[-1]
    assert upload["if"] == "always()"
    assert "drill.xml" in upload["with"]["path"]


def test_gitlab_ci() -> None:
    job = load("gitlab-ci.yml")["restore-drill"]
    assert job["artifacts"]["reports"]["junit"] == "drill.xml"
    assert job["artifacts"]["when"] == "always"
    aliases = {service["alias"] for service in job["services"]}
    assert "@postgres/" in job["variables"]["DRILL_DSN"]
    assert aliases == {"postgres", "qdrant"}


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_the_command_line_is_one_of_vbackup(name: str) -> None:
    (line,) = COMMAND.findall((CI / name).read_text(encoding="utf-8"))
    verb, *arguments = shlex.split(line)
    found = cli.get_command(
        cli.make_context("vbackup", ["--help-not"], resilient_parsing=True), verb
    )
    assert found is not None
    context = found.make_context(verb, arguments)
    assert context.params["level"] == "drill"
    assert context.params["max_age"] == 26 * 3600.0
    assert context.params["junit"] == Path("drill.xml")
