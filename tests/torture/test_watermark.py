"""Under writers, a restored pair is exact at its watermark; two dumps in a row never are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vbackup.demo.oracle import compare
from vbackup.demo.scenario import Lag, Scenario
from vbackup.demo.usual_script import ScriptOrder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.mark.torture("capture")
def test_capture_leaves_no_wrong_pair(scenario: Scenario, torture: Any) -> None:
    outcome = torture(scenario)

    outcome.prove()
    outcome.prove_drift()
    assert outcome.backup.manifest.watermark.writers_paused_ms == 0


@pytest.mark.torture("fence")
def test_fence_leaves_no_wrong_pair(scenario: Scenario, torture: Any) -> None:
    outcome = torture(scenario, "fence")

    outcome.prove()
    assert outcome.backup.manifest.watermark.strategy == "fence"
    # Every dual write is whole when the fence is had: nothing can be in flight.
    assert outcome.reembed == set()


@pytest.mark.torture("lock")
def test_lock_leaves_no_wrong_pair(scenario: Scenario, torture: Any) -> None:
    torture(scenario, "lock").prove()


@pytest.mark.torture("keyless")
def test_without_versions_it_is_right_when_the_lag_is_known(
    scenario: Scenario, torture: Any
) -> None:
    app, config = torture.begin(scenario)
    outcome = torture.judge(app, config, torture.back_up(config))

    assert outcome.backup.manifest.watermark.exactness == "best-effort"
    if app.worst_lag > config.watermark.max_index_lag:
        pytest.skip(f"row and point were {app.worst_lag:.1f} s apart: the machine is too busy")
    outcome.prove()


@pytest.mark.torture("naive")
@pytest.mark.parametrize("order", ["dump-first", "snapshot-first"])
def test_two_dumps_in_a_row_leave_wrong_pairs(
    scenario: Scenario, order: ScriptOrder, naive: Any
) -> None:
    """The harness can fail: the same application, the same oracle, the usual script."""
    found, live = naive(scenario, order)

    assert not live.wrong
    assert not live.unfinished
    assert found.wrong


@pytest.mark.torture
@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(seed=110, rows=500, writes_per_second=300, lag=Lag(slow=0.5)),
        Scenario(
            seed=111,
            rows=500,
            keys="int",
            link="payload",
            points="many",
            shards=4,
            order="in-transaction",
            fenced=True,
            lag=Lag(slow=0.2),
            savepoint_share=0.3,
            long_share=0.05,
            long_seconds=0.5,
        ),
        Scenario(seed=112, rows=500, order="point-first", lag=Lag(slow=0.2), optimizers=True),
    ],
    ids=["row-first", "in-transaction-many", "point-first"],
)
def test_the_application_at_rest_agrees_with_itself(
    scenario: Scenario, application: Callable[[Scenario], Any]
) -> None:
    app = application(scenario)
    app.wait_for_writes(200)

    app.quiesce()

    found = compare(app.dsn, app.store, scenario)
    assert not found.wrong
    assert not found.unfinished
    assert found.points >= found.live > 0
