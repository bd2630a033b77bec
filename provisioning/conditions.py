"""Derive a cluster's conditions from what is wished and what was seen. Pure; nothing is accumulated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from provisioning.planner import Action
from provisioning.spec import DesiredCluster, Lifecycle, ObservedCluster
from provisioning.states import STEP_TITLES, Condition, ConditionType, Truth


def derive(
    desired: DesiredCluster,
    observed: ObservedCluster | None,
    action: Action | None,
    *,
    deletion_requested: bool,
    stalled_reason: str = "",
    message: str = "",
) -> tuple[Condition, ...]:
    """All conditions as of this turn, without their transition times.

    Args:
        observed: None when the region gave no answer.
        action: what is left to do; None when converged.
        stalled_reason: code of the permanent failure, "" when there is none.
        message: sentence about what is waited for or went wrong.
    """
    available, reason = _availability(desired, observed, action)
    found = (
        (ConditionType.ACCEPTED, Truth.TRUE, "Accepted", ""),
        (ConditionType.APPLIED, *_applied(desired, observed)),
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
    return [asdict(condition) for condition in conditions]


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


def _availability(
    desired: DesiredCluster, observed: ObservedCluster | None, action: Action | None
) -> tuple[Truth, str]:
    if observed is None:
        return Truth.UNKNOWN, "RegionUnreachable"
    if desired.lifecycle is not Lifecycle.RUNNING:
        return Truth.FALSE, _camel(desired.lifecycle)
    # An engine that is about to be replaced may still answer, but not as it is wished.
    if observed.available and action is None:
        return Truth.TRUE, "PartitionsHealthy"
    if not observed.running:
        return Truth.FALSE, "EngineNotRunning"
    return Truth.FALSE, "PartitionsNotHealthy" if observed.digest == desired.digest else "EngineOutdated"


def _applied(desired: DesiredCluster, observed: ObservedCluster | None) -> tuple[Truth, str, str]:
    if observed is None:
        return Truth.UNKNOWN, "RegionUnreachable", ""
    if observed.digest == desired.digest:
        return Truth.TRUE, "DigestMatches", ""
    return Truth.FALSE, "DigestDiffers" if observed.exists else "NothingThere", ""


def _truth(holds: bool) -> Truth:
    return Truth.TRUE if holds else Truth.FALSE


def _camel(words: str) -> str:
    return "".join(word.capitalize() for word in words.split("_"))
