"""One turn for one cluster: claim, observe, plan, act, record. Repeats and losses of wake-ups change nothing."""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from django.db import connection

from common.errors import Permanent, Temporary
from provisioning import executor, planner, services, wakeups
from provisioning import selectors as read
from provisioning.absence import Absence
from provisioning.backends.base import ClusterBackend
from provisioning.conditions import code_of
from provisioning.errors import (
    BackupFailed,
    DataDamaged,
    DataGone,
    EngineKeepsEnding,
    Fenced,
    HeldBack,
    InMaintenance,
    RegionUnreachable,
    ReleaseUnavailable,
    RemovalsHeld,
    RestoreFailed,
    UpgradeFailed,
    WorkerKeepsDying,
)
from provisioning.executor import Effect
from provisioning.models import Cluster, Region
from provisioning.placement import minute
from provisioning.planner import (
    Action,
    LetGo,
    PrepareRelease,
    RemoveCluster,
    Rescale,
    RestoreData,
    StartEngine,
    StopEngine,
    TakeBackup,
    Wait,
)
from provisioning.services import TurnOutcome
from provisioning.silence import Silences
from provisioning.spec import Lifecycle, ObservedCluster, ReleaseState, Work
from provisioning.statements import MAX_DEATHS, is_away
from provisioning.states import Hold, OperationKind, StepKind
from provisioning.turnstile import Turnstile

logger = logging.getLogger(__name__)

# Every backend call begins something and returns; the slowest (writing a certificate, starting a process) takes
# about a second on a busy machine. Ten of them, and then twice that for a machine that swaps.
LEASE_TTL = timedelta(seconds=20)

# After an action was begun, and while one is waited for. The watch rings earlier when it sees the change.
AFTER_ACTION_SECONDS = 0.3
WAITING_SECONDS = 1.0

# What is being removed takes seconds to go, and asking again does not hurry it. A watch rings when it is gone: what is
# asked besides is only for what holds it up, and a hundred that go at once would hold each other up by it.
REMOVE_AGAIN_SECONDS = 5.0
REMOVE_WATCHED_AGAIN_SECONDS = 30.0

# The engine has accepted another number of brokers before, and it did not come about.
RESCALE_AGAIN_SECONDS = 10.0

# A converged cluster is looked at this often even if no change was ever reported (a watch may miss some).
RESYNC_SECONDS = 300.0

# The same for a running engine that no watch looks after: its end must be noticed within half a minute all the same.
UNWATCHED_SECONDS = 20.0

# Where all clusters of a region share a server, looks at what rests ask so much of it, however many they are: with a
# watch, which tells of every change and of everything when it starts, and without one.
RESYNC_REQUESTS_PER_SECOND = 1.0
UNWATCHED_REQUESTS_PER_SECOND = 10.0

MAX_BACKOFF_SECONDS = 300.0

# A new release, or restored data, on which the engine ends so often is taken back.
TRIAL_STARTS = 3

# What waits for an operator is looked at again this often: it may have come right by itself.
HELD_SECONDS = 60.0

_HOLD_SENTENCES = {
    Hold.SET_BACK: (
        "The account database was restored from an older copy, and the region has seen later changes of this cluster "
        "than it knows. Nothing is done until an operator has looked; the engine goes on as it is."
    ),
    Hold.UNEXPLAINED: RemovalsHeld.sentence,
}
# One message keeps a worker's thread for so long at most: mails wait behind it, and so does the worker's own end.
SERVE_SECONDS = 2.0

# A cluster whose turns end their workers, and for which nobody has asked anything, is tried again so much later.
PARKED_SECONDS = 3600.0

# A suspect waits so long for the turns beside it to end: several times the slowest one, and far less than its lease.
SOLITUDE_SECONDS = 5.0

# A lease that began just before the database went away has run out by then, and the clock has come round to its row.
FORGIVING_SECONDS = 2 * LEASE_TTL.total_seconds()

_turnstile = Turnstile()
_silences = Silences()
_absence = Absence(FORGIVING_SECONDS)


def serve(*, seconds: float = SERVE_SECONDS) -> bool:
    """Take turns, each for the cluster whose turn it is, until none is due; True when time was over before that.

    Nobody is waited for: a cluster for which something was begun is due again a moment later, and rung for then.

    Raises:
        what `statements.is_away` knows: the database does not answer.
    """
    end = time.monotonic() + seconds
    while _claim_and(_attend) is not None:
        if time.monotonic() >= end:
            return True
    return False


def reconcile(cluster_id: UUID) -> int:
    """Take turns for one cluster, by hand, while another is worth taking soon; returns how many were taken."""
    turns = 0
    while turn(cluster_id):
        turns += 1
        time.sleep(AFTER_ACTION_SECONDS)
    return turns


def turn(cluster_id: UUID) -> bool:
    """Take one turn for this cluster if it is due; True when it began an action and another is worth taking soon.

    Two statements when nothing is to be done: claim, record.
    """
    return bool(_claim_and(_take_turn_or_give_it_back, cluster_id))


def _claim_and(take: Callable[[Cluster], bool], cluster_id: UUID | None = None) -> bool | None:
    """Claim a row and take its turn, a suspect's alone in this process; None when there was nothing to claim."""
    with _turnstile.together():
        with noting_absence():
            row = Cluster.objects.claim(cluster_id, ttl=LEASE_TTL, is_forgiven=_absence.forgives)
        if row is None:
            return None
        if not row.deaths or row.deaths >= MAX_DEATHS:
            return take(row)
    with _turnstile.alone(patience_seconds=SOLITUDE_SECONDS):
        with noting_absence():
            has_begun = Cluster.objects.begin_alone(row, ttl=LEASE_TTL)
        return has_begun and take(row)


@contextmanager
def noting_absence() -> Iterator[None]:
    """Notice it when the database does not answer what is asked first."""
    try:
        yield
    except Exception as error:
        if is_away(error):
            _absence.note()
        raise
    _absence.end()


def _attend(row: Cluster) -> bool:
    """Take a turn of which no error may reach the next cluster's."""
    try:
        is_due_soon = _take_turn_or_give_it_back(row)
    except Exception as error:  # the loop's rim: a row that cannot be understood is nobody else's trouble, nor spins
        if is_away(error):
            raise
        logger.exception("a turn broke off", extra={"cluster_id": row.pk})
        Cluster.objects.give_back(row, due_in_seconds=MAX_BACKOFF_SECONDS)
        return False
    if is_due_soon:
        wakeups.remind(row.pk, delay_seconds=AFTER_ACTION_SECONDS)
    return is_due_soon


def _take_turn_or_give_it_back(row: Cluster) -> bool:
    try:
        return _take_turn(row)
    except Exception as error:
        if is_away(error):
            _give_back_after_refusal(row)
        raise


def _give_back_after_refusal(row: Cluster) -> None:
    """Give a lease back although what the turn found could not be written (deadlock, full disk), if the database can.

    A lease that runs out counts as its worker's death, and after three of them the cluster would be left alone. Where
    it cannot, the lease is forgiven at the next claim, after the database's return.
    """
    seconds = _backoff_seconds(row.failures)
    try:
        with noting_absence():
            connection.close_if_unusable_or_obsolete()
            Cluster.objects.give_back(row, due_in_seconds=seconds, failures=row.failures + 1)
    except Exception as error:
        if not is_away(error):
            raise


def _take_turn(row: Cluster) -> bool:
    """Take the turn of a claimed row and record it; True when another is worth taking soon."""
    turn_id, started = uuid.uuid4().hex, time.monotonic()
    subject = read.subject_of(row)
    outcome = _parked(subject) if row.deaths >= MAX_DEATHS else _outcome(subject, turn_id)
    try:
        services.record_turn(subject, outcome)
    except Fenced:
        logger.warning("turn was overtaken", extra={"cluster_id": row.pk, "turn_id": turn_id})
        return False
    if outcome.action is not None or outcome.error_code:
        logger.info(
            "turn: %s%s",
            outcome.action.step if outcome.action else "observed",
            "" if outcome.executed else " (waiting)",
            extra={
                "cluster_id": row.pk,
                "organization_id": row.organization_id,
                "spec_generation": row.spec_generation,
                "turn_id": turn_id,
                "code": outcome.error_code,
                "seconds": round(time.monotonic() - started, 3),
            },
        )
    return outcome.executed and (outcome.due_in_seconds or 0.0) <= AFTER_ACTION_SECONDS


def _parked(subject: read.TurnSubject) -> TurnOutcome:
    """Leave a cluster alone, without even a look, whose turns keep ending their workers."""
    # Without an operation there is nothing that a person could retry: try again by ourselves, rarely.
    is_permanent = subject.open_operation_id is not None or subject.stall is not None
    error = WorkerKeepsDying(
        f"{MAX_DEATHS} times in a row the worker that served this cluster ended in the middle of its work. "
        + ("It is left alone until somebody tries again. " if is_permanent else "It is tried again in an hour. ")
        + "We have to look into it."
    )
    return TurnOutcome(
        None,
        None,
        error_code=error.code,
        error_message=error.message,
        is_permanent=is_permanent,
        due_in_seconds=None if is_permanent else PARKED_SECONDS,
    )


def show_plan(cluster_id: UUID) -> tuple[read.TurnSubject, ObservedCluster, Action | None]:
    """What a turn would do now, without doing it. Calls the region.

    Raises:
        Temporary: the region gave no answer.
    """
    subject = read.turn_subject(cluster_id)
    backend = executor.backend_of(subject.row.region.slug, subject.row.region.backend)
    observed = backend.observe(subject.desired)
    return subject, observed, planner.plan(subject.desired, observed)


def _outcome(subject: read.TurnSubject, turn_id: str) -> TurnOutcome:
    """Observe, plan and act; whatever goes wrong becomes an outcome too."""
    observed: ObservedCluster | None = None
    action: Action | None = None
    region = subject.row.region
    try:
        backend = executor.backend_of(region.slug, region.backend)
        observed = _look(subject, backend)
        action = planner.plan(subject.desired, observed)
        if action is None:
            return _resting(subject, observed)
        if subject.stall is not None:
            return _stalled(subject, backend, observed, action)
        _refuse_in_maintenance(subject)
        _refuse_hopeless(subject, observed, action)
        if isinstance(action, LetGo):
            services.end_trial(subject.row)
        if isinstance(action, RemoveCluster) and action.step not in subject.tried_steps:
            services.note_receipt(subject, backend.belongings(subject.row.pk))
        effect = _act(action, backend, subject)
    except Temporary as error:
        seconds = max(error.retry_after_seconds, _backoff_seconds(subject.row.failures))
        message = error.message
        if isinstance(error, RegionUnreachable) and region.silent_since is not None:
            message += f" This has been so since {minute(region.silent_since)}."
        return TurnOutcome(observed, action, error_code=error.code, error_message=message, due_in_seconds=seconds)
    except Permanent as error:
        # Without an operation there is nothing that a person could retry: look again by ourselves.
        is_permanent = subject.open_operation_id is not None
        is_withdrawn = is_permanent and _is_trial(subject) and _has_way_back(subject, observed)
        return TurnOutcome(
            observed,
            action,
            error_code=error.code,
            error_message=error.message,
            is_permanent=is_permanent and not is_withdrawn,
            is_withdrawn=is_withdrawn,
            due_in_seconds=_due_after_failure(action, observed) if is_permanent else MAX_BACKOFF_SECONDS,
        )
    except Exception as error:  # the loop's rim: one broken cluster must not stop the others, and must not spin
        if is_away(error):
            raise
        logger.exception("turn failed", extra={"cluster_id": subject.row.pk, "turn_id": turn_id})
        sentence = f"Something unexpected went wrong. We look into it; the reference is {turn_id}."
        return TurnOutcome(
            observed, action, error_code="internal", error_message=sentence, due_in_seconds=MAX_BACKOFF_SECONDS
        )
    waits_for = _what_is_waited_for(action, observed)
    executed = effect is not Effect.NONE
    due = _due_after(action, effect, subject) if executed else WAITING_SECONDS
    return TurnOutcome(observed, action, executed=executed, waits_for=waits_for, due_in_seconds=due)


def _act(action: Action, backend: ClusterBackend, subject: read.TurnSubject) -> Effect:
    if not isinstance(action, Wait):
        services.note_act()
    return executor.execute(action, backend, subject.desired, epoch=subject.row.lease_epoch)


def _look(subject: read.TurnSubject, backend: ClusterBackend) -> ObservedCluster:
    """Observe. What a region in maintenance does not answer, or answers wrongly, is nobody's failure."""
    try:
        with _silences.visiting(subject.row.region_id):
            return backend.observe(subject.desired)
    except (Temporary, Permanent):
        _refuse_in_maintenance(subject)
        raise


def _refuse_in_maintenance(subject: read.TurnSubject) -> None:
    """Do nothing in a region of which an operator has said so.

    Raises:
        InMaintenance: what is wished waits.
    """
    region = subject.row.region
    if region.maintenance_since is not None:
        note = f" {region.maintenance_note}" if region.maintenance_note else ""
        raise InMaintenance(
            f"The region “{region.name}” has been in maintenance since {minute(region.maintenance_since)}.{note} What "
            "you have asked for waits for its end.",
            retry_after_seconds=HELD_SECONDS,
        )


def _due_after(action: Action, effect: Effect, subject: read.TurnSubject) -> float:
    """No haste with what takes its time, or came to nothing when it was taken just before."""
    is_entrance_only = isinstance(action, StartEngine) and not action.nodes
    if action.step in subject.tried_steps and isinstance(action, Rescale):
        return RESCALE_AGAIN_SECONDS
    if isinstance(action, RemoveCluster) and effect is Effect.BEGUN:
        is_watched = wakeups.is_watched(subject.row.region_id)
        return REMOVE_WATCHED_AGAIN_SECONDS if is_watched else REMOVE_AGAIN_SECONDS
    return WAITING_SECONDS if is_entrance_only else AFTER_ACTION_SECONDS


def _what_is_waited_for(action: Action, observed: ObservedCluster) -> str:
    details = {
        StepKind.PREPARE_RELEASE: observed.release_detail,
        StepKind.RESTORE_DATA: observed.data_detail,
        StepKind.TAKE_BACKUP: observed.backup_detail,
        StepKind.RESCALE: "The engine is moving its partitions." if observed.is_rescaling else "",
    }
    told = details.get(action.step, "") or observed.waits_for or observed.release_detail
    return told or ("What there is of the cluster is being removed." if isinstance(action, RemoveCluster) else "")


def _backoff_seconds(failures: int) -> float:
    """Twice as long after each failure. Days of failures have no power of two that a float could hold."""
    return min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures, 10))


def _resting(subject: read.TurnSubject, observed: ObservedCluster) -> TurnOutcome:
    """All is as it is wished."""
    if subject.is_half_way:
        return TurnOutcome(observed, None, executed=True, due_in_seconds=0.0)
    seconds = _rest_seconds(subject.row.region, observed)
    seconds *= random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, hides nothing
    if not subject.is_in_undo_window:
        return TurnOutcome(observed, None, due_in_seconds=seconds)
    until = subject.row.delete_after
    assert until is not None, "an undo window has an end"
    return TurnOutcome(
        observed,
        None,
        waits_for=f"The undo window closes at {minute(until)}; until then the cluster can be restored.",
        due_in_seconds=min(seconds, (until - subject.now).total_seconds()),
    )


def _rest_seconds(region: Region, observed: ObservedCluster) -> float:
    """For how long a cluster at rest is not looked at unless something wakes it."""
    if not observed.look_requests:
        return UNWATCHED_SECONDS if observed.running and not observed.age_seconds else RESYNC_SECONDS
    return resync_seconds(region.placed, observed, is_watched=wakeups.is_watched(region.slug))


def resync_seconds(clusters: int, observed: ObservedCluster, *, is_watched: bool) -> float:
    """Return for how long a cluster at rest is left alone where looks ask a server that all of its region share."""
    per_second = RESYNC_REQUESTS_PER_SECOND if is_watched else UNWATCHED_REQUESTS_PER_SECOND
    at_least = RESYNC_SECONDS if is_watched or not observed.running else UNWATCHED_SECONDS
    return max(at_least, clusters * observed.look_requests / per_second)


def _stalled(
    subject: read.TurnSubject, backend: ClusterBackend, observed: ObservedCluster, action: Action
) -> TurnOutcome:
    """Look, and go no further before a person has acted; but brokers that end beside others are started again."""
    row, stall = subject.row, subject.stall
    assert stall is not None, "only a stalled cluster comes here"
    is_held = bool(row.hold) or row.region.maintenance_since is not None
    # Without a broker to start it ends nothing: who may reach an engine holds of one that does not come up as well.
    heals = isinstance(action, StartEngine) and (observed.available or not action.nodes) and not is_held
    may_start = heals and (row.start_after is None or row.start_after <= subject.now)
    return TurnOutcome(
        observed,
        action,
        executed=may_start and _act(action, backend, subject) is not Effect.NONE,
        error_code=code_of(stall),
        error_message=stall.message,
        is_permanent=True,
        due_in_seconds=UNWATCHED_SECONDS if heals else _due_after_failure(action, observed),
    )


def _due_after_failure(action: Action | None, observed: ObservedCluster | None) -> float | None:
    """A failure waits for a person, who may come any time; but what runs is still looked after."""
    if isinstance(action, TakeBackup | Wait) and action.step is StepKind.TAKE_BACKUP:
        return 0.0  # the failure is on record, and the engine as it was
    return RESYNC_SECONDS if observed is not None and observed.running else None


def _refuse_hopeless(subject: read.TurnSubject, observed: ObservedCluster, action: Action) -> None:
    """Hold an action back that was tried just now and failed, or that must not be done at all."""
    if subject.row.hold:
        raise HeldBack(_HOLD_SENTENCES[Hold(subject.row.hold)], retry_after_seconds=HELD_SECONDS)
    # Without an operation every other turn may try, with the longest back-off in between.
    has_tried = action.step in subject.tried_steps if subject.open_operation_id else not subject.row.failures
    match action:
        case PrepareRelease() if observed.release is ReleaseState.FAILED and has_tried:
            raise ReleaseUnavailable(observed.release_detail)
        case RestoreData() if observed.data is Work.FAILED and has_tried:
            raise RestoreFailed(observed.data_detail)
        case RestoreData() if not _is_trial(subject):
            # Nobody has asked for it now: it is what a cluster began with, or was given back, long ago.
            _refuse_what_is_gone(subject, observed)
        case TakeBackup() if observed.backup is Work.FAILED:
            raise BackupFailed(observed.backup_detail)
        case RemoveCluster():
            _require_explanation(subject)
        case StopEngine():
            _require_readable_data(subject, observed)
        case StartEngine(nodes) if nodes:
            _refuse_start(subject, observed)
        case Wait(StepKind.AWAIT_HEALTHY) if observed.damage:
            raise _damaged(subject, observed)
        case _:
            pass
    _refuse_endless_trial(subject, observed)


def _require_readable_data(subject: read.TurnSubject, observed: ObservedCluster) -> None:
    """Let an engine run on that has gone to a later release than is wished: it could not be started again on this one.

    So it is where the wish is older than the engine, after a restore of the account database.
    """
    release = subject.row.former_release if subject.is_half_way else subject.row.release
    assert release is not None, "an upgrade that waits for its backup has a former release"
    desired = subject.desired
    if desired.size.brokers > 1 or observed.keeps_former or desired.lifecycle is not Lifecycle.RUNNING:
        return
    readable = ("", release.pk, *release.upgrades_from)
    unreadable = [one.release for one in observed.brokers if one.has_wished_data and one.release not in readable]
    if unreadable:
        raise HeldBack(
            f"The engine runs {unreadable[0]}, and {release.pk} is wished. Its data never goes back to an earlier "
            "release, so it goes on as it is until an operator has set the wish right.",
            retry_after_seconds=HELD_SECONDS,
        )


def _refuse_start(subject: read.TurnSubject, observed: ObservedCluster) -> None:
    row = subject.row
    _refuse_what_is_gone(subject, observed)
    # Somebody who asks again may have mended the files.
    if observed.damage and (subject.open_operation_id is None or StepKind.START_ENGINE in subject.tried_steps):
        raise _damaged(subject, observed)
    if row.trial_ends_at is not None and row.start_attempts >= TRIAL_STARTS:
        raise _trial_failed(subject, observed, observed.last_exit or "The engine ended soon after it was started.")
    if row.start_after is not None and row.start_after > subject.now:
        raise _keeps_ending(row.start_attempts, observed, wait=row.start_after - subject.now)


def _refuse_what_is_gone(subject: read.TurnSubject, observed: ObservedCluster) -> None:
    """Make nothing in the place of a cluster that ran once: neither empty, nor as it was at its last restore."""
    if subject.row.was_healthy and not (observed.exists and observed.brokers):
        raise DataGone(
            "All of this cluster is gone from its region, its data too. No empty engine is started in its place. It "
            "goes on when an operator brings its data back; else make a new cluster from its last backup and delete "
            "this one."
        )


def _damaged(subject: read.TurnSubject, observed: ObservedCluster) -> Permanent:
    """Waiting does not mend it, and neither does another start."""
    if _is_trial(subject):
        return _trial_failed(subject, observed, observed.damage)
    return DataDamaged(
        f"{observed.damage} They are left as they are, for somebody to examine. Restore a backup into this cluster; or "
        "suspend it, have an operator put sound files in their place, and resume it."
    )


def _refuse_endless_trial(subject: read.TurnSubject, observed: ObservedCluster) -> None:
    if subject.row.region.silent_since is not None:
        return  # it answers again, and the time of its silence is yet to be given back
    ends_at = subject.row.trial_ends_at
    if ends_at is not None and ends_at < subject.now and not planner.is_served(subject.desired, observed):
        raise _trial_failed(subject, observed, f"The engine was not healthy in time. {observed.waits_for}".strip())


def _is_trial(subject: read.TurnSubject) -> bool:
    return subject.row.is_on_trial and subject.open_operation_kind in read.TRIED


def _has_way_back(subject: read.TurnSubject, observed: ObservedCluster | None) -> bool:
    """Whether what was before can be wished again.

    Once a broker has worked on the new release beside others, what it said yes to is nowhere else: from there an
    upgrade can only be finished, while the others go on serving.
    """
    release = subject.desired.release.version
    others = observed.brokers if observed is not None and subject.desired.size.replication_factor > 1 else ()
    is_ahead = subject.row.former_release_id is not None and not subject.is_half_way
    return not (is_ahead and any(broker.healthy and broker.release == release for broker in others))


def _trial_failed(subject: read.TurnSubject, observed: ObservedCluster, why: str) -> UpgradeFailed | RestoreFailed:
    if subject.open_operation_kind is OperationKind.UPGRADE:
        former = subject.row.former_release_id
        if _has_way_back(subject, observed):
            return UpgradeFailed(f"{why} The cluster goes back to {former}, with the data it had before.")
        return UpgradeFailed(
            f"{why} Other brokers work on the new release already, so there is no way back but the backup from before; "
            "the cluster goes on serving with the brokers it has."
        )
    return RestoreFailed(f"{why} The cluster goes back to the data it had before.")


def _require_explanation(subject: read.TurnSubject) -> None:
    """Let a removal pass that somebody asked for; stop all others when they are many.

    Raises:
        RemovalsHeld: more removals without anybody's request are due in this region than ever should be.
    """
    held = read.unexplained_removals(subject.row)
    if held is not None:
        logger.error(
            "%d of the %d clusters of a region would be removed and nobody asked for it; %d may be",
            held.due,
            held.live,
            held.allowed,
            extra={"cluster_id": subject.row.pk},
        )
        raise RemovalsHeld(RemovalsHeld.sentence, retry_after_seconds=HELD_SECONDS)


def _keeps_ending(attempts: int, observed: ObservedCluster, *, wait: timedelta) -> Temporary:
    why = observed.last_exit or "It ended soon after it was started."
    seconds = wait.total_seconds()
    sentence = f"{why} Start {attempts + 1} follows in {seconds:.0f} s."
    return EngineKeepsEnding(sentence, retry_after_seconds=seconds, attempts=attempts)
