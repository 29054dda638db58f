"""What a reconcile found, one line a link, for a list of checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vbackup.model.finding import LinkReport


def link_verdicts(reports: Iterable[LinkReport]) -> Iterator[tuple[str, bool, str]]:
    """Name of the check, whether rows and points agree, and the counts."""
    for report in reports:
        rest = f", {report.expected_reembed:,} to re-embed" if report.expected_reembed else ""
        found = "agree" if report.clean else f"{report.drift:,} findings"
        counts = f"{report.rows:,} rows, {report.points:,} points: {found}{rest}"
        yield f"link {report.name}", report.clean, counts
