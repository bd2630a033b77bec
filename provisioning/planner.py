"""Decide the next action from two snapshots, and nothing else. Pure.

Level-triggered: the event that woke the loop is no argument, so a lost or repeated wake-up cannot change the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from provisioning.spec import STOP_GRACE_SECONDS, DesiredCluster, Lifecycle, ObservedCluster, ReleaseState
from provisioning.states import StepKind


@dataclass(frozen=True, slots=True)
class PrepareRelease:
    """Begin to fetch and unpack the wished release."""

    step: StepKind = StepKind.PREPARE_RELEASE


@dataclass(frozen=True, slots=True)
class StartEngine:
    """Lay down the configuration and start the engine."""

    step: StepKind = StepKind.START_ENGINE


@dataclass(frozen=True, slots=True)
class StopEngine:
    """Ask the engine to stop, or end it when it did not within the grace period."""

    step: StepKind = StepKind.STOP_ENGINE


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do but to look again: a step that was begun is not through yet."""

    step: StepKind


@dataclass(frozen=True, slots=True)
class RemoveCluster:
    """Remove the engine and its data."""

    step: StepKind = StepKind.REMOVE


@dataclass(frozen=True, slots=True)
class CloseCluster:
    """Nothing is left in the region: turn the row into a tombstone (our finalizer)."""

    step: StepKind = StepKind.CLOSE


Action = PrepareRelease | StartEngine | StopEngine | Wait | RemoveCluster | CloseCluster


def plan(desired: DesiredCluster, observed: ObservedCluster) -> Action | None:
    """Return the single next action that brings `observed` closer to `desired`; None means converged."""
    match desired.lifecycle:
        case Lifecycle.DELETED:
            return RemoveCluster() if observed.exists else CloseCluster()
        case Lifecycle.SUSPENDED:
            return _stop(observed) if observed.running else None
        case Lifecycle.RUNNING:
            return _run(desired, observed)
        case _:
            assert_never(desired.lifecycle)


def _run(desired: DesiredCluster, observed: ObservedCluster) -> Action | None:
    if observed.running and observed.digest == desired.digest and not observed.stopping:
        return None if observed.available else Wait(StepKind.AWAIT_HEALTHY)
    # Whatever has to be restarted goes on serving until its successor is ready to start.
    if observed.release is ReleaseState.PREPARING:
        return Wait(StepKind.PREPARE_RELEASE)
    if observed.release is not ReleaseState.READY:
        return PrepareRelease()
    return _stop(observed) if observed.running else StartEngine()


def _stop(observed: ObservedCluster) -> Action:
    if observed.stopping and observed.stopping_seconds < STOP_GRACE_SECONDS:
        return Wait(StepKind.STOP_ENGINE)
    return StopEngine()


def foresee(desired: DesiredCluster, observed: ObservedCluster) -> tuple[StepKind, ...]:
    """The steps that lie ahead when all goes well: the planner run against the expected effect of each action."""
    steps: list[StepKind] = []
    while action := plan(desired, observed):
        if not steps or steps[-1] is not action.step:
            steps.append(action.step)
        if isinstance(action, CloseCluster):
            break
        observed = _effect(action, desired, observed)
    return tuple(steps)


def _effect(action: Action, desired: DesiredCluster, observed: ObservedCluster) -> ObservedCluster:
    match action.step:
        case StepKind.PREPARE_RELEASE:
            return replace(observed, release=ReleaseState.READY)
        case StepKind.START_ENGINE:
            return replace(observed, exists=True, running=True, digest=desired.digest, available=False)
        case StepKind.AWAIT_HEALTHY:
            return replace(observed, available=True)
        case StepKind.STOP_ENGINE:
            return replace(observed, running=False, stopping=False, available=False)
        case _:
            return ObservedCluster(release=observed.release)
