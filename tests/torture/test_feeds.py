"""Whatever feed says what changed, and whatever it misses: the restored pair is exact."""

from __future__ import annotations

from typing import Any

import pytest

from vbackup.demo.scenario import Lag, Scenario

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SCENARIO = Scenario(
    seed=140, rows=500, writes_per_second=150, lag=Lag(slow=0.5), savepoint_share=0.2
)


@pytest.mark.torture
@pytest.mark.parametrize(
    ("feed", "changed_by"),
    [
        pytest.param("column", "updated_at", id="column"),
        # Says nothing of changes: all but one document's are missed.
        pytest.param("column", "timestamp '2000-01-01' + document_id * interval '1 d'", id="blind"),
        # Where there is no test_decoding, this is xmin again.
        pytest.param("slot", None, id="slot"),
    ],
)
def test_no_feed_leaves_a_wrong_pair(torture: Any, feed: str, changed_by: str | None) -> None:
    app, config = torture.begin(SCENARIO)
    watermark = {"feed": feed, "restore_point": True}
    (link,) = config.link
    rows = tuple(rows.model_copy(update={"changed_by": changed_by}) for rows in link.rows)
    config = config.model_copy(
        update={
            "watermark": config.watermark.model_copy(update=watermark),
            "link": (link.model_copy(update={"rows": rows}),),
        }
    )
    outcome = torture.judge(app, config, torture.back_up(config))
    outcome.prove()
    record = outcome.backup.manifest.watermark
    assert record.timeline >= 1
    assert record.restore_point
