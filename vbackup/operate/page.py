"""The status page: one self-contained HTML document, without scripts or outside resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from jinja2 import Environment, PackageLoader, StrictUndefined

from vbackup import __version__
from vbackup.operate.history import JOBS, Run
from vbackup.operate.status import Status
from vbackup.quantity import duration, size

WIDTH, ROW, CHART = 720, 16, 120
"""Units of a chart's width, of a timeline row's height, of the size chart's height. Charts are
stretched to the window; text stands beside them, so that it keeps its size."""

WEEKS = 6
RECENT = 15


@dataclass(frozen=True, slots=True)
class Tick:
    """One run on its job's row of the timeline. Failures are taller: colour is not for all."""

    x: float
    width: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One backup in the size chart; heights in pixels."""

    x: float
    width: float
    read: float
    new: float
    day: str
    title: str


def render(
    status: Status, timeline: Sequence[Run], *, title: str, refresh: int | None = None
) -> str:
    """The page. `timeline` are the runs of the last WEEKS, oldest first. `refresh` is seconds
    between reloads, None for a report that stays as it is."""
    environment = Environment(
        loader=PackageLoader("vbackup.operate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = lambda seconds: duration(seconds)
    environment.filters["moment"] = _moment
    jobs = [job for job in JOBS if job in status.scheduled or job in status.last]
    bars = _bars([run for run in timeline if run.job == "backup" and run.ok])
    return environment.get_template("status.html").render(
        status=status,
        title=title,
        refresh=refresh,
        version=__version__,
        backup_at=status.watermark_at,
        jobs=jobs,
        rows=[(job, _ticks(status.now, [r for r in timeline if r.job == job])) for job in jobs],
        days=_days(status.now),
        bars=bars,
        bars_top=size(max((_number(r, "bytes_read") for r in timeline), default=0)),
        recent=[run for run in reversed(timeline) if run.ended][:RECENT],
        width=WIDTH,
        row=ROW,
        chart=CHART,
    )


def _moment(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC") if at else "never"


def _x(at: datetime, now: datetime) -> float:
    start = now - timedelta(weeks=WEEKS)
    return round((at - start) / timedelta(weeks=WEEKS) * WIDTH, 1)


_KINDS = ("ok", "running", "bad")


def _ticks(now: datetime, runs: Sequence[Run]) -> list[Tick]:
    """One tick a column at most: a backup a minute makes no page of a hundred megabytes. The
    worst run of a column is the one that shows."""
    found: dict[int, Tick] = {}
    for run in runs:
        left, right = _x(run.started, now), _x(run.ended or now, now)
        kind = "ok" if run.ok else "running" if run.ended is None else "bad"
        title = f"{run.job} {_moment(run.started)}: {run.outcome}, {duration(run.seconds)}"
        width = round(max(5.0, right - left), 1)
        tick = Tick(min(left, WIDTH - width), width, kind, title)
        rival = found.get(int(left / 2))
        if rival is None or _KINDS.index(kind) >= _KINDS.index(rival.kind):
            found[int(left / 2)] = tick
    # Failures last, so that a crowded row shows them on top.
    return sorted(found.values(), key=lambda tick: tick.kind == "bad")


def _days(now: datetime) -> list[tuple[float, str]]:
    """Mondays: how far from the left, in percent of the width, and their date."""
    monday = (now - timedelta(days=now.weekday())).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    weeks = [monday - timedelta(weeks=back) for back in reversed(range(WEEKS))]
    # A label needs room: the last of the week that has just begun would stand over the edge.
    return [
        (round(place / WIDTH * 100, 1), at.strftime("%d %b"))
        for at in weeks
        if 0 <= (place := _x(at, now)) < WIDTH * 0.93
    ]


def _bars(backups: Sequence[Run]) -> list[Bar]:
    shown = backups[-120:]
    top = max((_number(run, "bytes_read") for run in shown), default=0)
    if not top:
        return []
    width = WIDTH / max(len(shown), 20)
    bars: list[Bar] = []
    for at, run in enumerate(shown):
        read, new = _number(run, "bytes_read"), _number(run, "bytes_uploaded")
        title = f"{_moment(run.started)}: {size(read)} read, {size(new)} new"
        bars.append(
            Bar(
                x=round(at * width, 1),
                width=round(max(width - 1, 1), 1),
                read=round(read / top * CHART, 1),
                new=round(min(new / top, 1) * CHART, 1),
                day=run.started.strftime("%d %b"),
                title=title,
            )
        )
    return bars


def _number(run: Run, key: str) -> float:
    value = run.document.get(key, 0)
    return float(value) if isinstance(value, int | float) else 0.0
