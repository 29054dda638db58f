"""Wires what looks for links in a pair that nobody has described."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from vbackup import wiring
from vbackup.errors import Usage

if TYPE_CHECKING:
    from vbackup.config import Config
    from vbackup.engine.discover import Discovery
    from vbackup.ports import Clock, Reporter


def discover(config: Config, reporter: Reporter, clock: Clock) -> Discovery:
    """Links that samples of the configured pair speak for. Only reads.

    Raises Usage without Qdrant, and what the stores raise."""
    from vbackup.engine.discover import Discover
    from vbackup.postgres.catalog import KeyCatalog

    if config.qdrant is None:
        raise Usage("links are discovered in Qdrant's collections", hint="add a [qdrant] section")
    with (
        closing(KeyCatalog(config.postgres)) as catalog,
        closing(wiring.point_source(config, clock)) as points,
    ):
        facts = points.facts(config.qdrant.patterns)
        return Discover(catalog, points, reporter).run(facts.collections)
