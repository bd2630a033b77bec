"""Derive a cluster's conditions from what is wished and what was seen. Pure; nothing is accumulated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

from provisioning.planner import Action
from provisioning.spec import DesiredCluster, Lifecycle, ObservedCluster
from provisioning.states import STEP_TITLES, Condition, ConditionType, Truth

_NAMES = tuple(field.name for field in fields(Condition))


def derive(
    desired: DesiredCluster,
    observed: ObservedCluster | None,
    action: Action | None,
    *,
    deletion_requested: bool,
    stalled_reason: str = "",
    unseen_reason: str = "region_unreachable",
    message: str = "",
) -> tuple[Condition, ...]:
    """All conditions as of this turn, without their transition times.

    Args:
        observed: None when the region gave no answer.
        action: what is left to do; None when converged.
        stalled_reason: code of the permanent failure, "" when there is none.
        unseen_reason: code of what kept us from looking, when `observed` is None.
        message: sentence about what is waited for or went wrong.
    """
    unseen = _camel(unseen_reason)
    available, reason = (Truth.UNKNOWN, unseen) if observed is None else _availability(desired, observed)
    applied = (Truth.UNKNOWN, unseen, "") if observed is None else _applied(desired, observed)
    found = (
        (ConditionType.ACCEPTED, Truth.TRUE, "Accepted", ""),
        (ConditionType.APPLIED, *applied),
        (ConditionType.AVAILABLE, available, reason, "" if available is Truth.TRUE else message),
        (
            ConditionType.UP_TO_DATE,
            _truth(observed is not None and action is None and not stalled_reason),
            "Converged" if action is None else _camel(action.step),
            "" if action is None else STEP_TITLES[action.step],
        ),
        (
            ConditionType.STALLED,
            _truth(bool(stalled_reason)),
            _camel(stalled_reason) if stalled_reason else "NotStalled",
            message if stalled_reason else "",
        ),
        (ConditionType.DELETING, _truth(deletion_requested), "Requested" if deletion_requested else "NotRequested", ""),
    )
    return tuple(
        Condition(kind, status, why, said, observed_generation=desired.spec_generation)
        for kind, status, why, said in found
    )


def with_transitions(
    conditions: Sequence[Condition], previous: Sequence[Condition], *, now: str
) -> tuple[Condition, ...]:
    """The conditions with their transition times: `now` where the status changed, else the former time."""
    before = {condition.type: condition for condition in previous}

    def since(condition: Condition) -> str:
        former = before.get(condition.type)
        return former.last_transition_at if former and former.status is condition.status else now

    return tuple(replace(condition, last_transition_at=since(condition)) for condition in conditions)


def to_json(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """The conditions as the row keeps them and the API shows them."""
    # Not `asdict`, which copies deeply and costs as much as the rest of deriving them.
    return [{name: getattr(condition, name) for name in _NAMES} for condition in conditions]


def from_json(rows: Sequence[Mapping[str, Any]]) -> tuple[Condition, ...]:
    """The conditions from a row; what is none is left out, for the next turn derives all of them anew."""
    found: list[Condition] = []
    for row in rows if isinstance(rows, list) else ():
        with suppress(KeyError, TypeError, ValueError):
            found.append(Condition(**{**row, "type": ConditionType(row["type"]), "status": Truth(row["status"])}))
    return tuple(found)


def code_of(condition: Condition) -> str:
    """The error code that a condition's reason was made from."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", condition.reason).lower()


def _availability(desired: DesiredCluster, observed: ObservedCluster) -> tuple[Truth, str]:
    """Whether the engine serves. Whether it does so as it is wished is `UpToDate`'s to say."""
    if desired.lifecycle is not Lifecycle.RUNNING:
        return Truth.FALSE, _camel(desired.lifecycle)
    if observed.available:
        is_reached = observed.answers_clients
        return (Truth.TRUE, "PartitionsHealthy") if is_reached else (Truth.FALSE, "NoGatewayReady")
    return Truth.FALSE, "PartitionsNotHealthy" if observed.running else "EngineNotRunning"


def _applied(desired: DesiredCluster, observed: ObservedCluster) -> tuple[Truth, str, str]:
    if all(observed.broker(node).digest == desired.digest for node in desired.nodes):
        return Truth.TRUE, "DigestMatches", ""
    return Truth.FALSE, "DigestDiffers" if observed.exists else "NothingThere", ""


def _truth(holds: bool) -> Truth:
    return Truth.TRUE if holds else Truth.FALSE


def _camel(words: str) -> str:
    return "".join(word.capitalize() for word in words.split("_"))
