"""What a comparison of rows and points can find."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vbackup.model.blocks import PointId

FindingKind = Literal[
    "missing",  # live row, no point
    "orphan",  # point, no row
    "stale",  # point older than its row
    "ahead",  # point newer than its row
    "not_live",  # point of a row that should have none
    "wrong_count",  # a row has another number of points than it says
    "duplicate",  # two points where one belongs
    "no_reference",  # point without the payload key
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference, with its evidence. `point` is None for missing and wrong_count."""

    kind: FindingKind
    link: str
    collection: str
    key: str | None
    point: PointId | None = None
    row_version: str | None = None
    point_version: str | None = None
    tenant: str | None = None
    detail: str = ""


@dataclass(slots=True)
class LinkReport:
    """The counts of one link (contract: `reconcile`)."""

    name: str
    rows: int = 0
    points: int = 0
    missing: int = 0
    orphans: int = 0
    stale: int = 0
    ahead: int = 0
    not_live: int = 0
    wrong_count: int = 0
    duplicates: int = 0
    no_reference: int = 0
    expected_reembed: int = 0
    healed: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def drift(self) -> int:
        """The number of findings that nobody expected."""
        found = (
            self.missing
            + self.orphans
            + self.stale
            + self.ahead
            + self.not_live
            + self.wrong_count
            + self.duplicates
            + self.no_reference
        )
        return found - self.expected_reembed

    @property
    def clean(self) -> bool:
        """Whether rows and points agree, but for rows already on the re-embed list."""
        return self.drift == 0
