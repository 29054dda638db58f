"""The files under deploy/ parse, run commands that exist, and name metrics that exist."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vbackup import __version__
from vbackup.cli.main import cli
from vbackup.config import ObjectiveConfig, ScheduleConfig
from vbackup.operate.cron import check_cron
from vbackup.operate.history import History
from vbackup.operate.metrics import exposition
from vbackup.operate.status import read_status
from vbackup.settings import load

yaml = pytest.importorskip("yaml")
DEPLOY = Path(__file__).parents[3] / "deploy"
NOW = datetime(2026, 1, 5, tzinfo=UTC)


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def accepted(arguments: list[str]) -> None:
    """The command line parses: every command and option on it exists."""
    with cli.make_context("vbackup", list(arguments), obj=None) as context:
        name, command, rest = cli.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None
        with command.make_context(name, rest, parent=context):
            pass


def lines(text: str) -> list[list[str]]:
    found = re.findall(r"/opt/vbackup/bin/vbackup ([^>\n]+)", text)
    return [line.split() for line in found]


@pytest.mark.parametrize(
    "name", ["systemd/vbackup.service", "systemd/vbackup-backup.service", "cron/vbackup"]
)
def test_commands_of_units_and_crontab_exist(name: str) -> None:
    found = lines((DEPLOY / name).read_text())
    assert found
    for arguments in found:
        accepted(arguments)


def test_units_are_well_formed() -> None:
    for path in sorted((DEPLOY / "systemd").iterdir()):
        unit = configparser.RawConfigParser(strict=False, allow_no_value=False)
        unit.optionxform = str  # type: ignore[method-assign,assignment] # keys keep their case
        unit.read_string(path.read_text())
        assert "Unit" in unit.sections()
        assert {"Service", "Timer"} & set(unit.sections())


def test_crontab_times_are_cron_expressions() -> None:
    entries = re.findall(
        r"^([\d*].*?)  vbackup  ", (DEPLOY / "cron/vbackup").read_text(), re.MULTILINE
    )
    assert len(entries) == 4
    for entry in entries:
        check_cron(" ".join(entry.split()))


def test_kubernetes_manifests_run_commands_that_exist() -> None:
    cron = documents("kubernetes/cronjob.yaml")[0]
    check_cron(cron["spec"]["schedule"])
    pods = [cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]]
    pods += [
        d["spec"]["template"]["spec"]
        for d in documents("kubernetes/deployment.yaml")
        if d["kind"] == "Deployment"
    ]
    for pod in pods:
        # What the Pod Security Standard "restricted" asks for.
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            accepted(container["args"])
            inside = container["securityContext"]
            assert inside["capabilities"] == {"drop": ["ALL"]}
            assert (inside["readOnlyRootFilesystem"], inside["allowPrivilegeEscalation"]) == (
                True,
                False,
            )
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("where", ["kubernetes", "compose"])
def test_configurations_load(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "kubernetes":
        text = documents("kubernetes/configmap.yaml")[0]["data"]["vbackup.toml"]
    else:
        text = (DEPLOY / "compose/vbackup.toml").read_text()
    for name in ("DATABASE_URL", "QDRANT_API_KEY", "VBACKUP_PASSPHRASE"):
        monkeypatch.setenv(name, f"{name.lower()}-value")
    path = tmp_path / "vbackup.toml"
    path.write_text(text)
    config = load(path).config
    for job in ("backup", "verify", "reconcile", "prune"):
        check_cron(getattr(config.schedule, job))


def test_images_are_those_of_this_version() -> None:
    named = {
        tag
        for path in DEPLOY.rglob("*.yaml")
        for tag in re.findall(r"image: vbackup:(\S+)", path.read_text())
    }
    assert named == {__version__}


def test_time_zones_need_no_database_of_the_system() -> None:
    """Small images have none; then even "UTC" would be unknown."""
    code = "from vbackup.operate.cron import zone; print(zone('UTC'))"
    environment = {**os.environ, "PYTHONTZPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("UTC\n", "")


def test_compose_has_the_pair_and_its_backup() -> None:
    compose = documents("compose/compose.yaml")[0]
    assert set(compose["services"]) == {"postgres", "qdrant", "s3", "setup", "vbackup"}
    accepted(compose["services"]["vbackup"]["command"])
    for name in ("setup", "vbackup"):
        service = compose["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    setup = (DEPLOY / "compose/setup.sh").read_text()
    accepted(re.findall(r"^exec vbackup (.+)$", setup, re.MULTILINE)[0].split())


def test_alerts_and_dashboard_use_metrics_that_exist(tmp_path: Path) -> None:
    history = History(tmp_path / "history.sqlite")
    for job, code in (("backup", 0), ("reconcile", 3), ("drill", 0)):
        run = history.begin(job, NOW)  # type: ignore[arg-type] # literals above
        link = {"name": "docs", "rows": 1, "points": 1, "orphans": 2}
        patch = {"reembed": 0}
        facts = {"bytes_read": 1, "bytes_uploaded": 1, "writers_paused_ms": 0, "patch": patch}
        history.end(run, NOW, code, {"links": [link], "rto_seconds": 3.0, **facts})
    status = read_status(history, ScheduleConfig(), ObjectiveConfig(), NOW)
    known = set(re.findall(r"^(vbackup_\w+)", exposition(lambda: status).decode(), re.MULTILINE))
    alerts = (DEPLOY / "monitoring/alerts.yaml").read_text()
    dashboard = (DEPLOY / "monitoring/grafana-dashboard.json").read_text()
    expressions = re.findall(r"expr: (.+)", alerts)
    expressions += [t["expr"] for p in json.loads(dashboard)["panels"] for t in p["targets"]]
    used = {name for text in expressions for name in re.findall(r"\bvbackup_[a-z_]+\b", text)}
    assert len(used) > 8
    assert used - {"vbackup_backup_"} <= known


def test_every_metric_is_documented(tmp_path: Path) -> None:
    page = (DEPLOY.parent / "docs/operations.md").read_text()
    documented = set(re.findall(r"^\| `(vbackup_\w+)", page, re.MULTILINE))
    history = History(tmp_path / "history.sqlite")
    link = {"name": "docs", "orphans": 2}
    facts = {"bytes_read": 1, "bytes_uploaded": 1, "writers_paused_ms": 0, "patch": {}}
    for job, code in (("backup", 0), ("reconcile", 3), ("drill", 0)):
        run = history.begin(job, NOW)  # type: ignore[arg-type] # literals above
        history.end(run, NOW, code, {"links": [link], "rto_seconds": 3.0, **facts})
    status = read_status(history, ScheduleConfig(), ObjectiveConfig(), NOW)
    text = exposition(lambda: status).decode()
    known = set(re.findall(r"^(vbackup_\w+)", text, re.MULTILINE))
    known -= {name for name in known if name.endswith("_created")}
    assert documented == known
