"""What strict mode lets one request ask of a collection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PAGE = 10_000
"""Points a page without vectors: larger ones are not faster."""
MATCHED = 1_000
"""Ids or values in one condition."""
WHOLE = 256
"""Whole points a request: vectors are large."""
WHOLE_MULTI = 32
"""The same with multi-vectors, which hold hundreds of vectors each."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds a request; `None` where strict mode says nothing."""

    page: int = PAGE
    matched: int = MATCHED
    whole: int = WHOLE
    upserted: int = WHOLE
    unindexed_filters: bool = True

    @classmethod
    def of(cls, config: dict[str, Any]) -> Limits:
        """Limits of a collection's `config` as the server tells it."""
        whole = WHOLE_MULTI if _multi(config["params"].get("vectors")) else WHOLE
        strict = config.get("strict_mode_config") or {}
        if not strict.get("enabled"):
            return cls(whole=whole, upserted=whole)
        reads = strict.get("read_rate_limit")
        page = _least(PAGE, strict.get("max_query_limit"))
        condition = strict.get("condition_max_size")
        return cls(
            page=page,
            # A UUID is matched in four spellings.
            matched=_least(MATCHED, reads, condition and max(1, condition // 4)),
            whole=_least(whole, page, reads),
            upserted=_least(
                whole, strict.get("upsert_max_batchsize"), strict.get("write_rate_limit")
            ),
            unindexed_filters=strict.get("unindexed_filtering_retrieve") is not False,
        )


def _multi(vectors: Any) -> bool:
    if not isinstance(vectors, dict):
        return False
    params = [vectors, *vectors.values()]
    return any(isinstance(p, dict) and p.get("multivector_config") for p in params)


def _least(*bounds: int | None) -> int:
    return max(1, min(bound for bound in bounds if bound))
