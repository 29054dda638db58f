"""The table of links: what was compared and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vbackup.cli.screen import Screen
    from vbackup.model.finding import LinkReport

KINDS = (
    ("missing", "missing"),
    ("orphans", "orphans"),
    ("stale", "stale"),
    ("ahead", "ahead"),
    ("not_live", "not live"),
    ("wrong_count", "wrong count"),
    ("duplicates", "duplicates"),
    ("no_reference", "no reference"),
)


def render_links(screen: Screen, reports: Sequence[LinkReport]) -> None:
    """Rows, points and drift of every link; kinds that nobody has are left out."""
    if not reports:
        screen.line("no links: nothing says which rows own which points")
        return
    kinds = [(f, title) for f, title in KINDS if any(getattr(r, f) for r in reports)]
    numbers = ("ROWS", "POINTS", *(title.upper() for _, title in kinds), "EXPECTED", "HEALED")
    rows = [
        (
            report.name,
            f"{report.rows:,}",
            f"{report.points:,}",
            *(f"{getattr(report, field):,}" for field, _ in kinds),
            f"{report.expected_reembed:,}",
            f"{report.healed:,}",
            "agree" if report.clean else f"DRIFT {report.drift:,}",
        )
        for report in reports
    ]
    styles = ["green" if report.clean else "red" for report in reports]
    screen.table(("LINK", *numbers, "VERDICT"), rows, right=numbers, styles=styles)
