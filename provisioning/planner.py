"""Decide the next action from two snapshots, and nothing else. Pure.

Level-triggered: the event that woke the loop is no argument, so a lost or repeated wake-up cannot change the outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import assert_never

from provisioning.spec import (
    STOP_GRACE_SECONDS,
    DesiredCluster,
    Lifecycle,
    ObservedBroker,
    ObservedCluster,
    ReleaseState,
    Work,
)
from provisioning.states import StepKind

Nodes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrepareRelease:
    """Begin to fetch and unpack the wished release."""

    step: StepKind = StepKind.PREPARE_RELEASE


@dataclass(frozen=True, slots=True)
class TakeBackup:
    """Have the engine begin the wished backup."""

    step: StepKind = StepKind.TAKE_BACKUP


@dataclass(frozen=True, slots=True)
class RestoreData:
    """Begin to fetch the wished data out of its backup, beside what the engine works on now."""

    step: StepKind = StepKind.RESTORE_DATA


@dataclass(frozen=True, slots=True)
class StartEngine:
    """Lay down the configuration of these brokers and start them, with the clients' entrance where there is one."""

    nodes: Nodes
    step: StepKind = StepKind.START_ENGINE


@dataclass(frozen=True, slots=True)
class StopEngine:
    """Ask these brokers to stop, or end those that did not within the grace period."""

    nodes: Nodes
    step: StepKind = StepKind.STOP_ENGINE


@dataclass(frozen=True, slots=True)
class Rescale:
    """Have the engine take new brokers in, or let some go."""

    step: StepKind = StepKind.RESCALE


@dataclass(frozen=True, slots=True)
class RetireBrokers:
    """End brokers that the engine has let go, and remove their copies of the data."""

    nodes: Nodes
    step: StepKind = StepKind.RETIRE_BROKERS


@dataclass(frozen=True, slots=True)
class Rebalance:
    """Have the engine spread its partitions' leaders."""

    step: StepKind = StepKind.REBALANCE


@dataclass(frozen=True, slots=True)
class LetGo:
    """Remove what was kept for going back: all is well with the new."""

    step: StepKind = StepKind.LET_GO


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


Action = (
    PrepareRelease
    | TakeBackup
    | RestoreData
    | StartEngine
    | StopEngine
    | Rescale
    | RetireBrokers
    | Rebalance
    | LetGo
    | Wait
    | RemoveCluster
    | CloseCluster
)


def plan(desired: DesiredCluster, observed: ObservedCluster) -> Action | None:
    """Return the single next action that brings `observed` closer to `desired`; None means converged."""
    match desired.lifecycle:
        case Lifecycle.DELETED:
            return RemoveCluster() if observed.exists else CloseCluster()
        case Lifecycle.SUSPENDED:
            return _stop(observed) if observed.running or observed.entrance else None
        case Lifecycle.RUNNING:
            return _run(desired, observed)
        case _:
            assert_never(desired.lifecycle)


def is_steady(desired: DesiredCluster, observed: ObservedCluster) -> bool:
    """Whether every broker that the engine counts on is well, so that one of them may be taken away for a while."""
    return observed.available and all(broker.healthy for broker in _counted(desired, observed))


def is_served(desired: DesiredCluster, observed: ObservedCluster) -> bool:
    """Whether, besides, exactly those answer clients that are wished: no gateway from before still takes old tokens."""
    return is_steady(desired, observed) and observed.answers_clients and observed.is_entrance_current


def _run(desired: DesiredCluster, observed: ObservedCluster) -> Action | None:
    if observed.entrance is False and any(one.running and not one.stopping for one in observed.brokers):
        # It needs neither the release nor room for a broker, and without it nobody reaches those that run.
        return StartEngine(())
    if observed.data is not Work.DONE:
        return _restore(observed)
    nodes = _nodes_to_run(desired, observed)
    brokers = _brokers(nodes, observed)
    running = [broker for broker in brokers if broker.running]
    outdated = [broker for broker in running if broker.digest != desired.digest or not broker.has_wished_data]
    absent = tuple(broker.node for broker in brokers if not broker.running)
    ending = [broker for broker in running if broker.stopping]
    if not outdated and not absent and not ending:
        return _settle(desired, observed)
    # Whatever has to be restarted goes on serving until its successor is ready to start.
    if observed.release is not ReleaseState.READY:
        return _prepare(observed)
    if aliens := _aliens_to_end(desired, observed):
        return _end(aliens, StepKind.ROLL_BROKERS)
    if _is_whole_restart(desired, running):
        return _stop(observed)
    step = StepKind.ROLL_BROKERS if _is_rolling(desired, brokers) else StepKind.START_ENGINE
    if ending:
        return _end(ending, StepKind.STOP_ENGINE if desired.size.brokers == 1 else step)
    if absent:
        return StartEngine(absent, step)
    following = _next_to_replace(desired, observed, outdated)
    return Wait(step) if following is None else StopEngine((following.node,), step)


def _settle(desired: DesiredCluster, observed: ObservedCluster) -> Action | None:
    """All brokers run as they are wished: what is left to do with the engine's help."""
    if not is_served(desired, observed) or not all(observed.broker(node).answers for node in desired.nodes):
        return Wait(StepKind.AWAIT_HEALTHY)
    if observed.is_rescaling:
        return Wait(StepKind.RESCALE)
    if observed.members and set(observed.members) != set(desired.nodes):
        return Rescale()
    if retired := tuple(one.node for one in observed.brokers if one.node not in desired.nodes):
        # An engine of several that does not say whom it counts on has let nobody go. A single broker never says.
        is_let_go = bool(observed.members) or desired.size.brokers == 1
        return RetireBrokers(retired) if is_let_go else Wait(StepKind.AWAIT_HEALTHY)
    if desired.backup is not None and observed.backup is not Work.DONE:
        return Wait(StepKind.TAKE_BACKUP) if observed.backup is Work.RUNNING else TakeBackup()
    if not observed.is_balanced:
        return Rebalance()
    return LetGo() if observed.keeps_former else None


def _prepare(observed: ObservedCluster) -> Action:
    is_under_way = observed.release is ReleaseState.PREPARING
    return Wait(StepKind.PREPARE_RELEASE) if is_under_way else PrepareRelease()


def _restore(observed: ObservedCluster) -> Action:
    """Fetch the wished data; the engine, if it runs, serves the former one until all of it is there."""
    if observed.release is not ReleaseState.READY:
        return _prepare(observed)
    return Wait(StepKind.RESTORE_DATA) if observed.data is Work.RUNNING else RestoreData()


def _nodes_to_run(desired: DesiredCluster, observed: ObservedCluster) -> list[int]:
    """The wished brokers, and those that the engine has not let go yet."""
    return sorted({*desired.nodes, *observed.members})


def _brokers(nodes: Iterable[int], observed: ObservedCluster) -> list[ObservedBroker]:
    return [observed.broker(node) for node in nodes]


def _counts(broker: ObservedBroker, observed: ObservedCluster) -> bool:
    """Whether the engine counts on this broker: one that it has not taken in yet is not healthy, and need not be."""
    return not observed.members or broker.node in observed.members


def _counted(desired: DesiredCluster, observed: ObservedCluster) -> list[ObservedBroker]:
    return [one for one in _brokers(_nodes_to_run(desired, observed), observed) if _counts(one, observed)]


def _aliens_to_end(desired: DesiredCluster, observed: ObservedCluster) -> list[ObservedBroker]:
    """The brokers that tried a release which was taken back, while the others serve on the wished one: they alone end.

    They are too few to hold a partition, so all that was said yes to is on the others as well, and what they begin
    with anew comes from there. Once they were told to stop, a bad look at one of the others does not stop all.
    """
    counted = _counted(desired, observed)
    aliens = [one for one in counted if one.running and _is_alien(one, desired)]
    others = [one for one in counted if one not in aliens]
    are_few = len(aliens) <= (desired.size.replication_factor - 1) // 2
    were_told = all(one.stopping for one in aliens)
    serve = all(_serves_as_wished(one, desired) and (one.healthy or were_told) for one in others)
    return aliens if are_few and serve else []


def _is_alien(broker: ObservedBroker, desired: DesiredCluster) -> bool:
    """Whether it works on the wished data, and is of a release that the wished one cannot work beside."""
    fitting = {desired.release.version, *desired.release.rolls_from}
    return broker.has_wished_data and broker.digest != desired.digest and broker.release not in fitting


def _serves_as_wished(broker: ObservedBroker, desired: DesiredCluster) -> bool:
    is_up = broker.running and not broker.stopping
    return is_up and broker.digest == desired.digest and broker.has_wished_data


def _next_to_replace(
    desired: DesiredCluster, observed: ObservedCluster, outdated: list[ObservedBroker]
) -> ObservedBroker | None:
    """One after the other, from the highest number, while all are well: the others hold every partition meanwhile.

    One that is not well itself comes first: nobody has it anyway, and what it is sick of may be what the change mends.
    """
    if is_steady(desired, observed):
        return outdated[-1]
    sick = [one for one in _counted(desired, observed) if not one.healthy]
    return sick[0] if len(sick) == 1 and sick[0] in outdated else None


def _is_whole_restart(desired: DesiredCluster, running: list[ObservedBroker]) -> bool:
    """Whether all brokers have to end before one starts anew: there is one only, or they cannot work side by side."""
    if any(not broker.has_wished_data for broker in running):
        return True
    outdated = [broker for broker in running if broker.digest != desired.digest]
    if not outdated:
        return False
    others = {broker.release for broker in outdated} - {desired.release.version}
    return desired.size.replication_factor == 1 or not others <= set(desired.release.rolls_from)


def _is_rolling(desired: DesiredCluster, brokers: list[ObservedBroker]) -> bool:
    """Whether brokers are being replaced one by one: some serve, and some were last started as something else."""
    were_started = [one for one in brokers if one.running or one.digest]
    return any(one.running for one in brokers) and any(one.digest != desired.digest for one in were_started)


def _stop(observed: ObservedCluster) -> Action:
    return _end([broker for broker in observed.brokers if broker.running], StepKind.STOP_ENGINE)


def _end(brokers: list[ObservedBroker], step: StepKind) -> Action:
    patient = all(one.stopping and one.stopping_seconds < STOP_GRACE_SECONDS for one in brokers)
    return Wait(step) if patient and brokers else StopEngine(tuple(one.node for one in brokers), step)


def foresee(desired: DesiredCluster, observed: ObservedCluster) -> tuple[StepKind, ...]:
    """The steps that lie ahead when all goes well: the planner run against the expected effect of each action."""
    steps: list[StepKind] = []
    while action := plan(desired, observed):
        if not steps or steps[-1] is not action.step:
            steps.append(action.step)
        if isinstance(action, CloseCluster):
            break
        observed = expected_after(action, desired, observed)
    return tuple(steps)


def expected_after(action: Action, desired: DesiredCluster, observed: ObservedCluster) -> ObservedCluster:
    """What is to be seen once the action has had its effect."""
    match action:
        case StartEngine():
            return _started(action.nodes, desired, observed)
        case StopEngine():
            left = tuple(_ended(one) if one.node in action.nodes else one for one in observed.brokers)
            is_over = not any(one.running for one in left)
            entrance = observed.entrance and not is_over
            return replace(observed, brokers=left, available=not is_over and observed.available, entrance=entrance)
        case RetireBrokers():
            return replace(observed, brokers=tuple(one for one in observed.brokers if one.node not in action.nodes))
        case RemoveCluster() | CloseCluster():
            return ObservedCluster(release=observed.release)
        case _:
            return _waited(action.step, desired, observed)


def _started(nodes: Nodes, desired: DesiredCluster, observed: ObservedCluster) -> ObservedCluster:
    before = _brokers(nodes, observed)
    others = [one for one in observed.brokers if one.node not in nodes]
    fresh = [
        ObservedBroker(node, running=True, digest=desired.digest, release=desired.release.version) for node in nodes
    ]
    has_changed = any(one.release not in ("", desired.release.version) or not one.has_wished_data for one in before)
    return replace(
        observed,
        exists=True,
        brokers=tuple(sorted([*others, *fresh], key=lambda one: one.node)),
        entrance=None if observed.entrance is None else True,
        available=observed.available and bool(others),
        keeps_former=observed.keeps_former or has_changed,
    )


def _ended(broker: ObservedBroker) -> ObservedBroker:
    return replace(broker, running=False, stopping=False, answers=False, healthy=False)


def _waited(step: StepKind, desired: DesiredCluster, observed: ObservedCluster) -> ObservedCluster:
    match step:
        case StepKind.PREPARE_RELEASE:
            return replace(observed, release=ReleaseState.READY)
        case StepKind.RESTORE_DATA:
            return replace(observed, data=Work.DONE)
        case StepKind.AWAIT_HEALTHY | StepKind.ROLL_BROKERS:
            left = [_ended(one) if one.stopping else one for one in observed.brokers]
            healthy = tuple(replace(one, healthy=one.running, answers=one.running) for one in left)
            members = observed.members or tuple(one.node for one in healthy)
            return replace(
                observed,
                brokers=healthy,
                members=members,
                available=True,
                answers_clients=True,
                is_entrance_current=True,
            )
        case StepKind.RESCALE:
            healthy = tuple(replace(one, healthy=True) for one in observed.brokers)
            return replace(observed, brokers=healthy, members=tuple(desired.nodes), is_rescaling=False)
        case StepKind.TAKE_BACKUP:
            return replace(observed, backup=Work.DONE)
        case StepKind.REBALANCE:
            return replace(observed, is_balanced=True)
        case StepKind.LET_GO:
            return replace(observed, keeps_former=False)
        case _:
            ended = tuple(_ended(one) if one.stopping else one for one in observed.brokers)
            return replace(observed, brokers=ended)
