from __future__ import annotations

import pytest

from provisioning.conditions import derive
from provisioning.planner import plan
from provisioning.spec import Lifecycle, ObservedCluster
from provisioning.states import STEP_TITLES, OperationKind, Phase, StepKind, summarize
from tests.provisioning.test_planner import HEALTHY, NOTHING, STOPPED, desired


def phase(
    lifecycle: Lifecycle, observed: ObservedCluster, *, was_healthy: bool = True, operation: OperationKind | None = None
) -> Phase:
    wish = desired(lifecycle)
    found = derive(wish, observed, plan(wish, observed), deletion_requested=False)
    return summarize(found, lifecycle=lifecycle, was_healthy=was_healthy, operation=operation)


@pytest.mark.parametrize(
    ("observed", "was_healthy", "operation", "expected"),
    [
        (NOTHING, False, OperationKind.CREATE, Phase.CREATING),
        (HEALTHY, False, OperationKind.CREATE, Phase.HEALTHY),
        (HEALTHY, True, None, Phase.HEALTHY),
        (STOPPED, True, None, Phase.UNHEALTHY),
        (STOPPED, True, OperationKind.RESUME, Phase.RESUMING),
        (STOPPED, True, OperationKind.REVOKE_ACCESS, Phase.UPDATING),
        (STOPPED, False, None, Phase.CREATING),
    ],
)
def test_phase_of_a_running_wish(
    observed: ObservedCluster, was_healthy: bool, operation: OperationKind | None, expected: Phase
) -> None:
    assert phase(Lifecycle.RUNNING, observed, was_healthy=was_healthy, operation=operation) is expected


def test_phase_of_a_suspended_wish() -> None:
    assert phase(Lifecycle.SUSPENDED, HEALTHY) is Phase.SUSPENDING
    assert phase(Lifecycle.SUSPENDED, STOPPED) is Phase.SUSPENDED


def test_conditions_of_an_older_wish_settle_nothing() -> None:
    for lifecycle, sight, operation, expected in [
        (Lifecycle.SUSPENDED, HEALTHY, OperationKind.SUSPEND, Phase.SUSPENDING),
        (Lifecycle.RUNNING, HEALTHY, OperationKind.REVOKE_ACCESS, Phase.UPDATING),
        (Lifecycle.RUNNING, STOPPED, OperationKind.RESUME, Phase.RESUMING),
    ]:
        older = desired(Lifecycle.SUSPENDED if sight is STOPPED else Lifecycle.RUNNING)
        found = derive(older, sight, plan(older, sight), deletion_requested=False)
        phase = summarize(found, lifecycle=lifecycle, was_healthy=True, operation=operation, is_seen=False)
        assert phase is expected


def test_phase_of_a_deletion() -> None:
    common = {"lifecycle": Lifecycle.DELETED, "was_healthy": True, "operation": OperationKind.DELETE}
    assert summarize((), **common, undo_window_open=True) is Phase.DELETION_SCHEDULED  # type: ignore[arg-type]
    assert summarize((), **common) is Phase.DELETING  # type: ignore[arg-type]
    assert summarize((), **common, is_gone=True) is Phase.DELETED  # type: ignore[arg-type]


def test_every_step_has_a_title() -> None:
    assert set(STEP_TITLES) == set(StepKind)
