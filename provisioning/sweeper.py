"""What the clock does at every tick: ring for due clusters, and take over what nobody took up.

Several clocks may run: whatever they do is claimed in the database.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import ClassVar, Generic, TypeVar
from uuid import UUID

from kombu.exceptions import OperationalError

from common.errors import ControlPlaneError, Temporary
from provisioning import executor, reconciler, wakeups
from provisioning import selectors as read
from provisioning.backends.base import ClusterBackend
from provisioning.errors import RegionUnreachable
from provisioning.models import Backup, Leftover, Region
from provisioning.services import backups, installation, leftovers, regions
from provisioning.spec import BackupRef
from provisioning.statements import is_away
from provisioning.states import LeftoverKind
from tenants import tokens

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# Constant work: one tick looks at so many due rows, however many there are.
BATCH = 100

# A message serves whatever is due, so a few of them bring as many workers to it as there are; the rest would only wait.
MAX_RINGS = 8

# A due row that was rung for is given this long before it is rung for again.
RING_AGAIN_SECONDS = 5.0

# Overdue by more than this, the message was lost or the workers are deaf: the clock takes turns itself.
TAKE_OVER_SECONDS = 15.0

# For so long in each tick, because the clock has other things to do as well.
HELP_SECONDS = 1.0

# A region has so long for an answer to the clock, which has other things to do; and for all that there is in it.
ANSWER_SECONDS = 5.0
INVENTORY_SECONDS = 60.0

REMOVALS_AT_ONCE = 20
REMOVAL_TTL = timedelta(minutes=2)

# The fencing number of a removal after which no turn of the cluster may ever come: above any that turns count up to.
LAST_EPOCH = 2**62

# The store is asked by number, and nobody knows these.
UNKNOWN_BACKUPS = (
    "Its engine and its data are gone. The region's store has backups of it that are not known here by their numbers: "
    "remove the folder {}/ from the store. The entry ends by itself then."
)


class Sweeper:
    """Rings for due clusters; remembers only whom it rang for lately, so as not to flood the broker."""

    def __init__(self) -> None:
        self._rung: dict[UUID, float] = {}

    def sweep(self, *, now: float) -> int:
        """One tick; `now` is monotonic seconds. Returns how many due rows were found. One statement when idle.

        Takes turns itself, in fair order, for what is long overdue or could not be rung for.
        """
        with reconciler.noting_absence():
            due = read.due_clusters(BATCH)
        self._rung = {pk: at for pk, at in self._rung.items() if now - at < RING_AGAIN_SECONDS}
        are_heard = self._ring([pk for pk, overdue_seconds in due if overdue_seconds <= TAKE_OVER_SECONDS], now)
        if not are_heard or (due and due[0][1] > TAKE_OVER_SECONDS):
            reconciler.serve(seconds=HELP_SECONDS)
        return len(due)

    def _ring(self, cluster_ids: list[UUID], now: float) -> bool:
        """Ring for those that were not rung for lately; False when the broker does not answer."""
        fresh = [cluster_id for cluster_id in cluster_ids if cluster_id not in self._rung]
        try:
            for cluster_id in fresh[:MAX_RINGS]:
                wakeups.send(cluster_id)
        except OperationalError:
            logger.warning("the broker does not answer; the clock takes turns itself")
            return False
        self._rung |= dict.fromkeys(fresh, now)
        return True


def keep_registers() -> None:
    """Have every region remember this database's beat; find out whether one remembers a later one, or none answers.

    Writes to no region while nothing happens.

    The first thing that a clock and a worker do: on a database that was restored from an older copy nothing else may
    happen before.
    """
    remembered = {}
    for region, answer in ask_all(read.regions(), lambda backend: backend.read_register()):
        if isinstance(answer, Exception):
            _note_silence(region, answer)
            continue
        with _rim(region, "could not compare the register of region %s"):
            regions.note_answer(region)
            if installation.compare(region, answer):
                logger.error("the database is an older copy than region %s knows: everything is held back", region.slug)
            remembered[region.slug] = answer.get("beat")
    count = installation.beat()
    # What was not compared may be all that is left to tell that this database is an older copy.
    behind = [region for region in _touchable() if remembered.get(region.slug, count) != count]
    register = installation.register(count, [region.slug for region in behind]) if behind else {}
    for region, refusal in ask_all(behind, lambda backend: backend.write_register(register)):
        _complain(region, refusal, "could not write the register of region %s: %s")


def tidy_stores() -> None:
    """Remove backups that are not kept any more, and leftovers whose time has come. Not on a database set back.

    One by one, because what fails decides on what is next: a region that does not do its part would have the clock wait
    for each of its removals, so it is left alone for the rest of the pass.
    """
    if installation.is_set_back():
        return
    silent = {region.slug for region in read.regions()} - {region.slug for region in _touchable()}
    for _ in range(REMOVALS_AT_ONCE):
        for backup in (due := backups.due_removals(1, but_not=silent)):
            _remove_backup(backup, silent)
        if not due:
            break
    for _ in range(REMOVALS_AT_ONCE):
        for entry in (claimed := leftovers.claim_due(1, ttl=REMOVAL_TTL, but_not=silent)):
            _remove_leftover(entry, silent)
        if not claimed:
            break


def _remove_backup(backup: Backup, silent: set[str]) -> None:
    """Try it once; should it not go, the ledger takes over, which waits ever longer and shows why."""
    ref = read.ref_of(backup)
    is_gone, refusal = _try(backup.cluster.region, lambda backend: backend.drop_backup(ref), silent)
    if is_gone:
        backups.note_removed(backup)
    else:
        leftovers.hand_over(backup, refusal)


def _remove_leftover(entry: Leftover, silent: set[str]) -> None:
    def remove(backend: ClusterBackend) -> bool:
        if entry.kind == LeftoverKind.BACKUP:
            return backend.drop_backup(BackupRef(entry.cluster_id, int(entry.reference)))
        return backend.delete(entry.cluster_id, epoch=LAST_EPOCH)

    is_gone, refusal = _try(entry.region, remove, silent)
    if refusal:
        leftovers.note_remaining(entry, refusal)
    elif not is_gone:
        leftovers.note_getting_on(entry)
    elif entry.kind == LeftoverKind.CLUSTER and leftovers.has_unknown_backups(entry):
        leftovers.note_remaining(entry, UNKNOWN_BACKUPS.format(entry.cluster_id))
    else:
        leftovers.note_gone(entry)


def _try(region: Region, remove: Callable[[ClusterBackend], bool], silent: set[str]) -> tuple[bool, str]:
    """Whether something is gone, and the sentence why not when that was refused; notes a region that is silent."""
    try:
        return remove(executor.backend_of(region.slug, region.backend)), ""
    except ControlPlaneError as error:
        logger.warning("region %s does not remove something: %s (%s)", region.slug, error.code, error.internal)
        if isinstance(error, Temporary):
            silent.add(region.slug)
        return False, error.message
    except Exception:  # a region's rim: one thing that cannot be removed must not hold up the others
        logger.exception("something could not be removed in region %s", region.slug)
        return False, "Something unexpected went wrong. The clock's log has it."


def take_inventories() -> None:
    """Look for what is in the regions and not wished, and the other way round: the ledger has both, nothing is done."""
    for region, answer in ask_all(_answering(), lambda backend: list(backend.inventory()), INVENTORY_SECONDS):
        if isinstance(answer, Exception):
            _complain(region, answer, "could not take the inventory of region %s: %s")
            continue
        with _rim(region, "could not enter what is in region %s"):
            # A region that is being renewed may answer before it has all of its state again.
            if region.maintenance_since is None and (missing := leftovers.note_missing(region, answer)):
                logger.error("%s clusters that should be in region %s are not there", missing, region.slug)
            if fresh := leftovers.note_finds(region, answer):
                logger.warning("%s things in region %s belong to no cluster of ours", fresh, region.slug)


def publish_keys() -> None:
    """Bring the public token keys to every region's mirror, so that engines never have to ask us for them.

    One region's failure is logged and does not keep the others waiting.
    """
    jwks = tokens.public_jwks()
    # Also where the register cannot be read: an engine without the keys refuses every new token.
    asked = [region for region in read.regions() if region.maintenance_since is None]
    for region, answer in ask_all(asked, lambda backend: backend.publish_keys(jwks)):
        _complain(region, answer, "could not publish token keys to region %s: %s")


def _answering() -> list[Region]:
    """Regions worth asking: of one that is silent, only the register is asked for again and again."""
    return [region for region in read.regions() if region.silent_since is None]


def _touchable() -> list[Region]:
    """Regions in which something may be changed."""
    return [region for region in _answering() if region.maintenance_since is None]


def ask_all(
    asked: list[Region], question: Callable[[ClusterBackend], Answer], seconds: float = ANSWER_SECONDS
) -> list[tuple[Region, Answer | Exception]]:
    """Ask several regions at once, so that a silent one keeps nobody waiting; who is late counts as silent.

    A late one's thread goes on until its own timeout, and the region is not asked the same again before.
    """
    calls = {region.slug: _Call(region, question) for region in asked}
    end = time.monotonic() + seconds
    return [(region, calls[region.slug].result(end - time.monotonic())) for region in asked]


class _Call(Generic[Answer]):
    """One question to one region, in a thread of its own that never keeps the process from ending."""

    _open: ClassVar[set[tuple[str, str]]] = set()

    def __init__(self, region: Region, question: Callable[[ClusterBackend], Answer]) -> None:
        self._region, self._question = region, question
        self._answer: Answer | Exception = RegionUnreachable("The region does not answer.")
        self._thread = threading.Thread(target=self._ask, name=f"ask-{region.slug}", daemon=True)
        # What takes long to answer one question may answer another.
        self._key = region.slug, question.__qualname__
        if self._key not in self._open:
            self._open.add(self._key)
            self._thread.start()

    def _ask(self) -> None:
        try:
            self._answer = self._question(executor.backend_of(self._region.slug, self._region.backend))
        except Exception as error:  # noqa: BLE001 - the region's rim: it is the answer
            self._answer = error
        finally:
            self._open.discard(self._key)

    def result(self, seconds: float) -> Answer | Exception:
        if self._thread.ident is not None:
            self._thread.join(max(0.0, seconds))
        return self._answer


@contextmanager
def _rim(region: Region, sentence: str) -> Iterator[None]:
    """Go on with the next region whatever one has said; not without the database."""
    try:
        yield
    except Exception as error:  # a region's rim: the next tick tries again
        if is_away(error):
            raise
        logger.exception(sentence, region.slug)


def _note_silence(region: Region, error: Exception) -> None:
    _complain(region, error, "region %s does not say what it remembers: %s")
    regions.note_silence(region.slug, _sentence_of(error))


def _sentence_of(error: Exception) -> str:
    """What people read of a region's failure."""
    if isinstance(error, ControlPlaneError):
        return error.message
    return "Something unexpected went wrong. The clock's log has it."


def _complain(region: Region, answer: object, sentence: str) -> None:
    if isinstance(answer, ControlPlaneError):
        logger.warning(sentence, region.slug, f"{answer.message} ({answer.internal})")
    elif isinstance(answer, Exception):
        logger.error(sentence, region.slug, repr(answer), exc_info=answer)
