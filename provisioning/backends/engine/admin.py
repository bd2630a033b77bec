"""Ask a running engine for something: brokers in or out, leaders spread, a backup. Through a broker's door."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import Permanent, Temporary
from provisioning.backends.engine.door import Door, Limits
from provisioning.backends.engine.health import Topology
from provisioning.spec import DesiredCluster, Work

# Reading a backup's state asks every partition's leader, and those ask the store, which may hang: a turn's lease is
# 20 s, and this is not all that a turn asks (`store.TURN_TIMEOUT`).
LIMITS = Limits(connect=1.0, read=4.0)
CONFLICT, NOT_FOUND = 409, 404
_STATES = {"COMPLETED": Work.DONE, "IN_PROGRESS": Work.RUNNING, "INCOMPLETE": Work.RUNNING, "FAILED": Work.FAILED}


@dataclass(frozen=True, slots=True)
class BackupState:
    """What the engine says of one backup; `is_whole` is False while a partition has no part in it."""

    work: Work
    is_whole: bool


class EngineAdmin:
    """One broker's management interface, which speaks for the whole engine.

    Every method raises `Temporary` when it does not answer, or says that it cannot now.
    """

    def __init__(self, door: Door) -> None:
        self._door = door

    def rescale(self, nodes: Iterable[int], *, replication_factor: int) -> None:
        """Ask the engine to work with exactly these brokers. One change at a time: another one goes on first.

        The factor is said each time: after a change that came to nothing, the engine would guess it from what is left.

        Raises:
            Permanent: the engine can never do that.
        """
        body = [str(node) for node in nodes]
        status, answer = self._ask("POST", f"cluster/brokers?replicationFactor={replication_factor}", body)
        if status != CONFLICT:
            _require(status, answer, "The engine refuses to work with that number of brokers.")

    def rebalance(self) -> None:
        """Ask the engine to make the preferred broker of each partition its leader."""
        status, answer = self._ask("POST", "rebalance", None)
        _require(status, answer, "The engine refuses to spread its leaders.")

    def begin_backup(self, number: int) -> bool:
        """Ask for a backup; False when the engine has had this number, or a higher one, before.

        Raises:
            Permanent: the engine can never do that.
        """
        status, answer = self._ask("POST", "backups", {"backupId": number})
        if status == CONFLICT:
            return False
        _require(status, answer, "The engine refuses to take a backup.")
        return True

    def backup_state(self, number: int) -> BackupState | None:
        """Return how far a backup is, None when there is none of that number."""
        status, answer = self._ask("GET", f"backups/{number}", None)
        if status == NOT_FOUND:
            return None
        _require(status, answer, "The engine does not say how far the backup is.")
        return _judge(answer)

    def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        answer = self._door.ask(method, f"actuator/{path}", body, limits=LIMITS)
        if answer is None:
            raise Temporary("The engine does not answer.")
        return answer.status, {} if answer.content is None else answer.content


def require_retirable(node: int, desired: DesiredCluster, topology: Topology) -> None:
    """Refuse to remove a broker that the engine counts on, or that is wished.

    Raises:
        Temporary: the next look tells what is to be done instead.
    """
    internal = f"members {topology.members}, wished {desired.nodes}"
    if not topology.members:
        raise Temporary("The engine does not say which brokers it counts on, so none is removed.", internal=internal)
    if node in topology.members or node in desired.nodes:
        why = "the engine counts on it" if node in topology.members else "it is wished"
        raise Temporary(f"Broker {node + 1} cannot be retired yet: {why}.", internal=internal)


def _judge(answer: Any) -> BackupState:
    """Work it out from the parts: the engine calls a backup incomplete both before and after all hope is gone."""
    parts = answer.get("details") or () if isinstance(answer, Mapping) else ()
    states = {str(part.get("state")) for part in parts}
    if "FAILED" in states:
        return BackupState(Work.FAILED, is_whole=False)
    work = _STATES.get(str(answer.get("state")), Work.RUNNING)
    return BackupState(work, is_whole=bool(states) and "DOES_NOT_EXIST" not in states)


def _require(status: int, answer: Any, sentence: str) -> None:
    """Raise unless it was done: what the engine said is for our logs, in its words there may be anything."""
    if status < 300:
        return
    internal = f"{status} {str(answer)[:500]}"
    if status >= 500 or status in {408, 429}:
        raise Temporary(sentence, internal=internal)
    raise Permanent(sentence, internal=internal)
