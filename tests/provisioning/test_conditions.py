from __future__ import annotations

from dataclasses import replace

import pytest

from provisioning.conditions import code_of, derive, from_json, to_json, with_transitions
from provisioning.planner import plan
from provisioning.spec import DesiredCluster, Lifecycle, ObservedCluster
from provisioning.states import Condition, ConditionType, Truth
from tests.provisioning.test_planner import HEALTHY, STOPPED, desired


def facts(
    wish: DesiredCluster, observed: ObservedCluster | None, *, stalled: str = ""
) -> dict[ConditionType, Condition]:
    action = plan(wish, observed) if observed else None
    derived = derive(wish, observed, action, deletion_requested=False, stalled_reason=stalled, message="why")
    assert {condition.type for condition in derived} == set(ConditionType)
    return {condition.type: condition for condition in derived}


def test_a_healthy_engine_is_available_and_up_to_date() -> None:
    found = facts(desired(), HEALTHY)
    assert found[ConditionType.AVAILABLE].status is Truth.TRUE
    assert found[ConditionType.UP_TO_DATE].status is Truth.TRUE
    assert found[ConditionType.STALLED].status is Truth.FALSE


def test_an_engine_whose_gateways_are_not_there_is_not_available_and_says_why() -> None:
    found = facts(desired(), replace(HEALTHY, answers_clients=False, is_entrance_current=False))
    assert found[ConditionType.AVAILABLE].status is Truth.FALSE
    assert found[ConditionType.AVAILABLE].reason == "NoGatewayReady"
    assert found[ConditionType.UP_TO_DATE].status is Truth.FALSE


def test_an_engine_about_to_be_replaced_serves_and_is_not_up_to_date() -> None:
    found = facts(desired(audience="a/2"), HEALTHY)
    assert found[ConditionType.AVAILABLE].status is Truth.TRUE
    assert found[ConditionType.APPLIED].reason == "DigestDiffers"
    assert found[ConditionType.UP_TO_DATE].status is Truth.FALSE
    assert found[ConditionType.UP_TO_DATE].reason == "StopEngine"


def test_no_answer_is_unknown_and_never_absent() -> None:
    found = facts(desired(), None)
    assert found[ConditionType.AVAILABLE].status is Truth.UNKNOWN
    assert found[ConditionType.APPLIED].status is Truth.UNKNOWN
    assert found[ConditionType.UP_TO_DATE].status is Truth.FALSE


def test_a_suspended_cluster_is_up_to_date_and_not_available() -> None:
    found = facts(desired(Lifecycle.SUSPENDED), STOPPED)
    assert found[ConditionType.AVAILABLE].reason == "Suspended"
    assert found[ConditionType.UP_TO_DATE].status is Truth.TRUE


def test_a_stall_carries_its_reason_and_sentence() -> None:
    stalled = facts(desired(), STOPPED, stalled="release_unavailable")[ConditionType.STALLED]
    assert (stalled.status, stalled.reason, stalled.message) == (Truth.TRUE, "ReleaseUnavailable", "why")


@pytest.mark.parametrize("code", ["release_unavailable", "java_missing", "internal"])
def test_a_reason_can_be_read_back_as_the_code_it_came_from(code: str) -> None:
    assert code_of(facts(desired(), STOPPED, stalled=code)[ConditionType.STALLED]) == code


def test_a_transition_time_moves_only_when_the_status_does() -> None:
    first = with_transitions(tuple(facts(desired(), STOPPED).values()), (), now="t1")
    again = with_transitions(tuple(facts(desired(), STOPPED).values()), first, now="t2")
    assert {condition.last_transition_at for condition in again} == {"t1"}
    healthy = with_transitions(tuple(facts(desired(), HEALTHY).values()), again, now="t3")
    moved = {condition.type for condition in healthy if condition.last_transition_at == "t3"}
    assert moved == {ConditionType.AVAILABLE, ConditionType.UP_TO_DATE}


def test_conditions_survive_the_row() -> None:
    found = tuple(replace(condition, last_transition_at="t") for condition in facts(desired(), HEALTHY).values())
    assert from_json(to_json(found)) == found
