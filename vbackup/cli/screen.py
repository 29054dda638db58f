"""What a person reads on stdout: rich tables on a terminal, aligned plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

from vbackup import quantity, redact

GAP = "  "


class Screen:
    """Lines and tables on stdout. Times are shown relative to `now`."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._fancy = sys.stdout.isatty()

    def moment(self, at: datetime) -> str:
        return quantity.moment(at, self._now)

    def line(self, text: str = "", style: str = "") -> None:
        """One line; `style` (rich's names) shows on a terminal only."""
        clean = redact.scrub(text)
        if not self._fancy:
            sys.stdout.write(clean + "\n")
            return
        from rich.console import Console
        from rich.text import Text

        Console(highlight=False).print(Text(clean, style=style), soft_wrap=True)

    def title(self, text: str) -> None:
        self.line(text, "bold")

    def pairs(self, rows: Iterable[tuple[str, object]]) -> None:
        """Names and values, one a line; values of None are left out."""
        shown = [(name, str(value)) for name, value in rows if value is not None]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.line(f"{name:<{width}}{GAP}{value}")

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        right: Iterable[str] = (),
        styles: Sequence[str] = (),
    ) -> None:
        """A table; `right` names the columns of numbers, `styles` has one style a row."""
        cells = [[redact.scrub(str(cell)) for cell in row] for row in rows]
        draw = self._rich_table if self._fancy else _plain_table
        draw(columns, cells, frozenset(right), styles)

    def _rich_table(
        self,
        columns: Sequence[str],
        rows: list[list[str]],
        right: frozenset[str],
        styles: Sequence[str],
    ) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in columns:
            table.add_column(name, justify="right" if name in right else "left", overflow="fold")
        for number, row in enumerate(rows):
            style = styles[number] if number < len(styles) else ""
            table.add_row(*(Text(cell) for cell in row), style=style)
        Console(highlight=False).print(table)


def _plain_table(
    columns: Sequence[str], rows: list[list[str]], right: frozenset[str], _: Sequence[str]
) -> None:
    lines = [list(columns), *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    for line in lines:
        padded = (
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(line, widths, columns, strict=True)
        )
        sys.stdout.write(GAP.join(padded).rstrip() + "\n")
