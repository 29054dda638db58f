"""Prometheus metrics, made from the job history on every scrape: they survive restarts.

Names and labels are documented in docs/operations.md; a test compares. The label of a job is
`task`: Prometheus keeps `job` for what it scrapes and would rename ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vbackup import __version__
from vbackup.errors import Failed
from vbackup.operate.history import JOBS, Run, outcome
from vbackup.operate.status import Status


class StatusCollector(Collector):
    """The status as metric families."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        status = self._status()
        info = GaugeMetricFamily("vbackup_info", "vbackup's version", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield GaugeMetricFamily(
            "vbackup_protected", "1 when every objective is met", value=float(status.protected)
        )
        yield from _ages(status)
        yield from _jobs(status)
        yield from _backup(status.backup)
        yield _drift(status)


def _ages(status: Status) -> Iterator[Metric]:
    if status.watermark_at is not None:
        yield GaugeMetricFamily(
            "vbackup_watermark_timestamp_seconds",
            "The instant that the newest good backup brings back",
            value=status.watermark_at.timestamp(),
        )
    if status.rpo_seconds is not None:
        yield GaugeMetricFamily(
            "vbackup_rpo_seconds",
            "Age of the newest good backup's watermark: what would be lost now",
            value=status.rpo_seconds,
        )
    if status.rto_seconds is not None:
        yield GaugeMetricFamily(
            "vbackup_rto_seconds",
            "How long the newest passed drill took to restore",
            value=status.rto_seconds,
        )


def _jobs(status: Status) -> Iterator[Metric]:
    success = GaugeMetricFamily(
        "vbackup_last_success_timestamp_seconds", "When the job last succeeded", labels=["task"]
    )
    duration = GaugeMetricFamily(
        "vbackup_last_duration_seconds", "How long the job's last run took", labels=["task"]
    )
    running = GaugeMetricFamily("vbackup_job_running", "1 while the job runs", labels=["task"])
    code = GaugeMetricFamily("vbackup_last_exit_code", "Exit code of the last run", labels=["task"])
    for job, run in status.last.items():
        duration.add_metric([job], run.seconds)
        code.add_metric([job], -1 if run.code is None else run.code)
    for job, run in status.last_good.items():
        success.add_metric([job], (run.ended or run.started).timestamp())
    skipped = CounterMetricFamily(
        "vbackup_skipped", "Times a job was due while its last run went on", labels=["task"]
    )
    now = {run.job for run in status.running}
    for job in JOBS:
        if job in now or job in status.last or job in status.scheduled:
            running.add_metric([job], float(job in now))
            skipped.add_metric([job], status.skipped.get(job, 0))
    failures = CounterMetricFamily(
        "vbackup_failures", "Runs that did not succeed, by exit code", labels=["task", "kind"]
    )
    for (name, ended_with), count in status.failures.items():
        failures.add_metric([name, outcome(ended_with)], count)
    yield from (success, duration, code, running, failures, skipped)


_BACKUP = {
    "bytes_read": ("vbackup_backup_bytes", "Bytes read by the newest good backup"),
    "bytes_uploaded": ("vbackup_backup_new_bytes", "Bytes it added to the repository"),
    "writers_paused_ms": ("vbackup_backup_writers_paused_ms", "How long it paused writers"),
}


def _backup(run: Run | None) -> Iterator[Metric]:
    if run is None:
        return
    for key, (name, text) in _BACKUP.items():
        value = run.document.get(key)
        if isinstance(value, int | float):
            yield GaugeMetricFamily(name, text, value=float(value))
    patch = run.document.get("patch")
    if isinstance(patch, dict):
        yield GaugeMetricFamily(
            "vbackup_reembed_rows",
            "Rows on the newest good backup's re-embed list",
            value=float(patch.get("reembed", 0)),
        )


def _drift(status: Status) -> Metric:
    drift = GaugeMetricFamily(
        "vbackup_drift", "Differences the last reconcile found", labels=["link", "kind"]
    )
    for link in status.links:
        for kind, count in link.drift.items():
            drift.add_metric([link.name, kind], count)
    return drift


def _registry(status: Callable[[], Status]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    return registry


def exposition(status: Callable[[], Status]) -> bytes:
    """The text that `/metrics` answers."""
    return generate_latest(_registry(status))


def write_textfile(path: Path, status: Callable[[], Status]) -> None:
    """For node-exporter's textfile collector; replaced atomically. Raises Failed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(path), _registry(status))
    except OSError as error:
        raise Failed(
            f"the metrics file {path} cannot be written: {error.strerror}",
            hint="set schedule.textfile to a directory that vbackup may write",
        ) from error
