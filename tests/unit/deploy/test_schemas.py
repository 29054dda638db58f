"""Manifests, compose file and workflows against their projects' own schemas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
KUBERNETES = "1.30"
WORKFLOWS = {
    "ci/github-actions.yml": "vendor.github-workflows",
    "ci/gitlab-ci.yml": "vendor.gitlab-ci",
    "compose/compose.yaml": "vendor.compose-spec",
}


def manifests() -> list[Any]:
    return [
        pytest.param(document, id=f"{path.name}-{document['kind']}")
        for path in sorted((DEPLOY / "kubernetes").iterdir())
        for document in yaml.safe_load_all(path.read_text())
    ]


@pytest.mark.parametrize("manifest", manifests())
def test_manifests_are_what_the_api_takes(manifest: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    validate(manifest, KUBERNETES, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (cronjob,) = yaml.safe_load_all((DEPLOY / "kubernetes/cronjob.yaml").read_text())
    cronjob["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError, match="concurencyPolicy"):
        kubernetes_validate.validate(cronjob, KUBERNETES, strict=True)


def check(schema: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("name", "schema"), WORKFLOWS.items())
def test_files_fit_their_schema(name: str, schema: str) -> None:
    pytest.importorskip("check_jsonschema")
    done = check(schema, DEPLOY / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_workflow_that_does_not_fit_would_be_found(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema")
    broken = tmp_path / "workflow.json"
    broken.write_text(json.dumps({"on": "push", "jobs": {"drill": {"runson": "ubuntu-latest"}}}))
    assert check("vendor.github-workflows", broken).returncode == 1
