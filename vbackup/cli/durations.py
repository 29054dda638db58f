"""Durations on the command line, as the configuration writes them."""

from __future__ import annotations

from typing import Any

import click

from vbackup.config_types import parse_duration


class Duration(click.ParamType[float]):
    """30s, 5m, 26h, 7d: seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
