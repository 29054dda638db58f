"""What docs/writers.md tells applications to write is what the backup waits for."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from vbackup import fence
from vbackup.config import WatermarkConfig

pytestmark = pytest.mark.integration
PAGE = (Path(__file__).parents[3] / "docs" / "writers.md").read_text()


def test_the_documented_line_holds_the_fence(database: str) -> None:
    found = re.search(r"^(SELECT pg_advisory_xact_lock_shared\((\d+)\));", PAGE, re.MULTILINE)
    assert found
    line, key = found[1], found[2]
    assert int(key) == fence.KEY == WatermarkConfig().fence_key
    with psycopg.connect(database) as writer, psycopg.connect(database) as backup:
        writer.execute(line.encode())
        free = "SELECT pg_try_advisory_lock(%s::bigint)"
        assert backup.execute(free, (fence.KEY,)).fetchone() == (False,)
        writer.commit()
        assert backup.execute(free, (fence.KEY,)).fetchone() == (True,)


def test_the_context_manager_is_that_line(database: str) -> None:
    with psycopg.connect(database) as writer, psycopg.connect(database) as backup:
        free = "SELECT pg_try_advisory_lock(%s::bigint)"
        with fence.shared(writer):
            assert backup.execute(free, (fence.KEY,)).fetchone() == (False,)
        assert backup.execute(free, (fence.KEY,)).fetchone() == (True,)
