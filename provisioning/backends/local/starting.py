"""Lay down what brokers and their entrance need, and have the launcher start them."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import Permanent, Temporary
from provisioning.backends.engine import health
from provisioning.backends.engine.names import name_of
from provisioning.backends.engine.origins import Contents, Move, Placement, decide, is_newer
from provisioning.backends.engine.tls import load_authority
from provisioning.backends.engine.view import View
from provisioning.backends.local import admission, restoring
from provisioning.backends.local.admission import Places
from provisioning.backends.local.configuration import (
    LOG_CONFIGURATION,
    Program,
    Surroundings,
    Workplace,
    arguments,
    environment,
)
from provisioning.backends.local.contents import put_in_place, read_contents
from provisioning.backends.local.door import LoopbackDoor
from provisioning.backends.local.files import (
    DISK_ERRORS,
    exclusive,
    read_json,
    remove,
    write_json,
    write_whole,
)
from provisioning.backends.local.layout import BrokerFolder, ClusterFolder, EntranceFolder, Ports, RegionFolder, Seat
from provisioning.backends.local.record import EngineRecord, running
from provisioning.backends.local.settings import LocalSettings
from provisioning.backends.local.tls import KeyPairFiles, ensure_certificate
from provisioning.errors import Fenced, RegionUnreachable
from provisioning.spec import DesiredCluster

LAUNCHER = Path(__file__).with_name("launch.py")
ENTRANCE = Path(__file__).with_name("entrance.py")
# Asked one right after the other, brokers that are level differ by what is processed in some milliseconds.
CAUGHT_UP_POSITIONS = 500
# A process that ends lets go of its files some milliseconds later.
ENDING_SECONDS = 1.0


def require_possible(engine_user: str | None) -> None:
    """Raise `Permanent` for what no other turn will change."""
    if engine_user is None:
        return
    try:
        uid = pwd.getpwnam(engine_user).pw_uid
    except KeyError:
        raise Permanent(f"There is no user {engine_user}, whom FLOWPLANE_ENGINE_USER names. Create it.") from None
    if os.geteuid() not in {0, uid}:
        raise Permanent(f"Only root can run engines as {engine_user}. Unset FLOWPLANE_ENGINE_USER, or run as root.")


@dataclass(frozen=True, slots=True)
class Start:
    """One start of some brokers of one cluster, and of its entrance. For whoever holds the cluster's fence."""

    desired: DesiredCluster
    cluster: ClusterFolder
    region: RegionFolder
    settings: LocalSettings
    epoch: int

    def run(self, idle: Sequence[BrokerFolder], program: Program | None) -> None:
        """Start the idle brokers, or raise before the first; then the entrance. One that was cut off is repeated.

        `program` may be None when no broker is idle.
        """
        for broker in idle:
            _refuse_lost_data(broker)
        # What is admitted must be running before the next one asks, or two would get the same room.
        with exclusive(self.region.admission_lock):
            with _unlocked(idle):
                placements = self._decide_all(idle)
                starting = [broker for broker in idle if broker.node in placements]
                copies_mib = self._copies_mib(starting, placements)
                places = admission.admit(
                    self.desired, starting, self.cluster, self.region, self.settings, copies_mib=copies_mib
                )
                self._lay_down(starting, places)
                contents = {broker.node: self._place_data(broker, placements[broker.node]) for broker in starting}
            for broker in starting:
                assert program is not None
                self._launch(broker, program, places, placements[broker.node], contents[broker.node])
            if places.entrance is not None:
                self._open_entrance(places.entrance, places.brokers)

    def _decide_all(self, idle: Sequence[BrokerFolder]) -> dict[int, Placement]:
        """Decide for each; one that has to begin with nothing while the others are not well waits for another call.

        Raises:
            Temporary: no other one is to be started meanwhile.
        """
        decided = {broker.node: self._decide(broker) for broker in idle}
        placements = {
            broker.node: decided[broker.node]
            for broker in idle
            if decided[broker.node].move is not Move.EMPTY or self._others_are_well(broker)
        }
        if idle and not placements:
            name = name_of(idle[0].node, self.desired.size.brokers)
            raise Temporary(f"{name} begins with nothing, as soon as the others are well and have caught up.")
        return placements

    def _decide(self, broker: BrokerFolder) -> Placement:
        contents = read_contents(broker)
        incoming = restoring.finished(broker, self.desired)
        release, wished = self.desired.release.version, self.desired.data
        may_be_empty = wished.epoch == 0 or self._has_company(broker)
        is_too_new = contents.data is not None and is_newer(contents.data.release, release)
        return decide(
            contents,
            incoming,
            wished,
            release,
            may_be_empty=may_be_empty,
            others_have_all=is_too_new and self._others_have_all(broker),
        )

    def _others(self, broker: BrokerFolder) -> list[BrokerFolder]:
        return [self.cluster.broker(node) for node in self.desired.nodes if node != broker.node]

    def _others_have_all(self, broker: BrokerFolder) -> bool:
        """Whether every other wished broker has data that this release may open; each partition is on some of them."""
        release, wished = self.desired.release.version, self.desired.data
        seated = [read_contents(other).data for other in self._others(broker)]
        have_all = all(data is not None and data.is_usable(wished, release) for data in seated)
        return self.desired.size.replication_factor > 1 and have_all

    def _others_are_well(self, broker: BrokerFolder) -> bool:
        """Ask every other broker, now: all run, lead every partition among them, and none is behind another.

        Else a record that only one of them and this broker have would be lost with what this broker has.
        """
        others = self._others(broker)
        if not all(self._is_at_work(other) for other in others):
            return False
        records = {other.node: EngineRecord.read(other) for other in others}
        looks = {
            node: health.look_at(LoopbackDoor(record.ports.management), is_one_of_several=True)
            for node, record in records.items()
            if record is not None
        }
        view = View(self.desired.size, looks, max_lag_positions=CAUGHT_UP_POSITIONS)
        return view.is_available and all(view.is_healthy(node) for node in looks)

    @staticmethod
    def _is_at_work(broker: BrokerFolder) -> bool:
        record = running(broker)
        return record is not None and record.stopping_seconds(broker) is None

    def _has_company(self, newcomer: BrokerFolder) -> bool:
        """Whether another broker works on the wished data already: one that joins gets its replicas from it."""
        others = (read_contents(broker) for broker in self.cluster.brokers() if broker != newcomer)
        return any(one.data is not None and one.data.is_of(self.desired.data) for one in others)

    def _copies_mib(self, idle: Collection[BrokerFolder], placements: Mapping[int, Placement]) -> int:
        copied = [broker for broker in idle if placements[broker.node].keeps_copy]
        if not copied or admission.can_share_blocks(self.cluster.path):
            return 0
        return sum(admission.used_mib(broker.data) for broker in copied)

    def _lay_down(self, idle: Collection[BrokerFolder], places: Places) -> None:
        lay_down_cluster(self.desired, self.cluster, self.settings)
        for node, ports in places.brokers.items():
            self._keep_place(self.cluster.broker(node), ports, self.desired.size.disk_mib)
        if places.entrance is not None:
            self._keep_place(self.cluster.entrance, places.entrance, 0)
        for broker in idle:
            lay_down_broker(broker, self.settings)

    def _keep_place(self, seat: Seat, ports: Ports, disk_mib: int) -> None:
        make_folder(seat.path, 0o750, passage_of(self.settings.engine_user))
        note = {"first": ports.first, "disk_mib": disk_mib}
        if read_json(seat.ports) != note:
            write_json(seat.ports, note, is_durable=True)

    def _place_data(self, broker: BrokerFolder, placement: Placement) -> Contents:
        contents = put_in_place(broker, placement)
        own = account_of(self.settings.engine_user)
        make_folder(broker.data, 0o700, own)
        if placement.keeps_copy:
            make_folder(broker.copying, 0o700, own)
        return contents

    def _launch(
        self, broker: BrokerFolder, program: Program, places: Places, placement: Placement, contents: Contents
    ) -> None:
        assert contents.data is not None
        opened = replace(contents.data, release=self.desired.release.version)
        after = Contents(opened, contents.data if placement.keeps_copy else contents.former)
        copy = {"from": str(broker.data), "unfinished": str(broker.copying), "to": str(broker.former)}
        place = Workplace(broker.data, broker.log, broker.tmp)
        store = self.settings.store
        around = Surroundings(broker.node, places.brokers, self.region.issuer, store)
        run_launcher(
            {
                **self._order(broker, self._record(broker, places.brokers[broker.node])),
                "user": self._user,
                "folder": str(broker.data),
                "argv": arguments(program, place, self.cluster.log_configuration, heap_mib=self.desired.size.heap_mib),
                "env": environment(self.desired, self.cluster, place, around),
                "contents_file": str(broker.contents),
                "contents": after.to_record(),
                "copy": copy if placement.keeps_copy else None,
            }
        )

    def _order(self, seat: Seat, record: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "lock": str(seat.lock),
            "fence": str(self.cluster.fence),
            "record_file": str(seat.record),
            "record": record,
            "console": str(seat.console),
        }

    @property
    def _user(self) -> str | None:
        return self.settings.engine_user if os.geteuid() == 0 else None

    def _record(self, broker: BrokerFolder, ports: Ports) -> dict[str, Any]:
        """Return what `EngineRecord` reads back; the launcher adds who the engine is."""
        before, brokers = EngineRecord.read(broker), self.desired.size.brokers
        return {
            "digest": self.desired.digest,
            "release": self.desired.release.version,
            "epoch": self.epoch,
            "ports": ports.first,
            "memory_mib": self.desired.size.memory_mib,
            "serves_rest": self.desired.release.serves_rest,
            "brokers": brokers,
            "store": self.settings.store.fingerprint if self.settings.store else "",
            "starts": before.starts + 1 if before else 1,
            "last_exit": before.explain_end(broker, name_of(broker.node, brokers)) if before else "",
        }

    def _open_entrance(self, ports: Ports, brokers: Mapping[int, Ports]) -> None:
        """Say where clients are led to, and see that the entrance runs."""
        seat = self.cluster.entrance
        write_routes(seat, ports, [brokers[node] for node in sorted(brokers)], self.desired.release.serves_rest)
        if running(seat) is not None:
            return
        make_folder(seat.log, 0o700, (os.geteuid(), os.getegid()))
        write_whole(seat.program, ENTRANCE.read_bytes(), mode=0o444)
        user = [self._user] if self._user else []
        # The interpreter behind the virtual environment's: that one may vanish. It drops its privileges by itself.
        python = str(Path(sys.executable).resolve())
        run_launcher(
            {
                **self._order(seat, self._entrance_record(seat, ports)),
                "user": None,
                "folder": str(seat.path),
                "argv": [python, "-I", "-S", str(seat.program), str(seat.routes), *user],
                "env": {"LANG": "C.UTF-8"},
            }
        )

    def _entrance_record(self, seat: EntranceFolder, ports: Ports) -> dict[str, Any]:
        before = EngineRecord.read(seat)
        return {
            "digest": "",
            "epoch": self.epoch,
            "ports": ports.first,
            "memory_mib": admission.ENTRANCE_MIB,
            "serves_rest": self.desired.release.serves_rest,
            "starts": before.starts + 1 if before else 1,
            "last_exit": before.explain_end(seat, "The clients' entrance") if before else "",
        }


def write_routes(seat: EntranceFolder, ports: Ports, brokers: list[Ports], serves_rest: bool) -> None:
    """Say which ports lead to which; a running entrance reads it within a second. Writes only what differs."""
    routes = [{"listen": ports.grpc, "to": [one.grpc for one in brokers]}]
    if serves_rest:
        routes.append({"listen": ports.rest, "to": [one.rest for one in brokers]})
    content = json.dumps({"routes": routes}).encode()
    if not seat.routes.exists() or seat.routes.read_bytes() != content:
        write_whole(seat.routes, content, mode=0o444)


def lay_down_cluster(desired: DesiredCluster, cluster: ClusterFolder, settings: LocalSettings) -> None:
    """Make what a cluster's brokers share: folder, card, log configuration, certificate; may run twice.

    Raises:
        Permanent: the installation's authority cannot be read.
    """
    authority = load_authority(settings.ca_cert, settings.ca_key)
    passage = passage_of(settings.engine_user)
    make_folder(cluster.path, 0o750, passage)
    make_folder(cluster.tls, 0o750, passage)
    write_whole(cluster.log_configuration, LOG_CONFIGURATION.read_bytes(), mode=0o444)
    write_card(desired, cluster)
    names = list(dict.fromkeys(["localhost", settings.address, desired.host_name]))
    ensure_certificate(KeyPairFiles(cluster.tls), authority, names, owner=account_of(settings.engine_user))


def write_card(desired: DesiredCluster, cluster: ClusterFolder) -> None:
    """Write beside the engine whose it is, and how it is wished."""
    card = {**desired.card, "spec_generation": desired.spec_generation, "audience": desired.audience}
    write_json(cluster.card, card, is_durable=True)


def lay_down_broker(broker: BrokerFolder, settings: LocalSettings) -> None:
    """Make a broker's own folders; may run twice, but not while it runs."""
    make_folder(broker.path, 0o750, passage_of(settings.engine_user))
    shutil.rmtree(broker.tmp, ignore_errors=True)
    remove(broker.copying)
    for own in (broker.log, broker.tmp):
        make_folder(own, 0o700, account_of(settings.engine_user))


def make_folder(folder: Path, mode: int, owner: tuple[int, int]) -> None:
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)
    os.chown(folder, *owner, follow_symlinks=False)


def account_of(engine_user: str | None) -> tuple[int, int]:
    """Return the ids of whoever engines run as."""
    if engine_user is None:
        return os.geteuid(), os.getegid()
    entry = pwd.getpwnam(engine_user)
    return entry.pw_uid, entry.pw_gid


def passage_of(engine_user: str | None) -> tuple[int, int]:
    """Return the owner of folders that the engine user passes through; what we rely on in them stays ours."""
    return os.geteuid(), account_of(engine_user)[1]


def run_launcher(order: Mapping[str, Any]) -> None:
    """Have the launcher become what the order says.

    Raises:
        Fenced: a newer turn came while we were on the way.
        Permanent: the engine user lacks access to something.
        RegionUnreachable: the launcher itself failed, or met a living engine that is not on record.
        OSError: the disk is full, read-only or broken.
    """
    ran = subprocess.run(
        [sys.executable, "-I", "-S", str(LAUNCHER)],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        env={},
        check=False,
    )
    if ran.returncode != 0:
        raise RegionUnreachable("The engine's launcher did not come to its end.", internal=ran.stderr[-500:])
    _judge(json.loads(ran.stdout))


def _judge(answer: Mapping[str, Any]) -> None:
    if answer["outcome"] == "locked":
        raise _runs_unrecorded()
    if answer["outcome"] == "fenced":
        raise Fenced("A newer turn has taken over this cluster.")
    if answer.get("errno") in DISK_ERRORS:
        raise OSError(answer["errno"], os.strerror(answer["errno"]))
    if answer["outcome"] == "failed":
        raise Permanent(
            "The engine's process could not be started. The engine user must be able to read the engine's program, "
            "Java and the folder of the cluster.",
            internal=answer["reason"],
        )


def _runs_unrecorded() -> RegionUnreachable:
    return RegionUnreachable("An engine of this cluster runs already, and its record is not there (yet).")


def _refuse_lost_data(broker: BrokerFolder) -> None:
    """Never start an engine on nothing in place of its data. The lock's file tells that one was launched before.

    Raises:
        RegionUnreachable: the broker had a folder, and it is not there.
    """
    is_elsewhere = broker.former.is_dir() or broker.incoming.is_dir() or read_contents(broker).move is not Move.NONE
    if broker.lock.exists() and not broker.data.is_dir() and not is_elsewhere:
        raise RegionUnreachable(
            "The folder with this cluster's data is missing. Mount its disk again, or put the folder back: the engine "
            "is not started on an empty one.",
            internal=str(broker.data),
        )


@contextmanager
def _unlocked(brokers: Collection[BrokerFolder]) -> Iterator[None]:
    """Be sure for the length of the block that no engine works on these brokers' data, known or not.

    A lock's file is not made here: it tells that an engine was launched.

    Raises:
        RegionUnreachable: one does.
    """
    with ExitStack() as stack:
        for broker in brokers:
            if broker.lock.exists():
                try:
                    stack.enter_context(exclusive(broker.lock, wait_seconds=ENDING_SECONDS))
                except RegionUnreachable:
                    raise _runs_unrecorded() from None
        yield


def refuse_mixed_data(desired: DesiredCluster, others: Collection[BrokerFolder]) -> None:
    """Never start brokers on other data than those work on that run already.

    Raises:
        Temporary: some still work on the former data; they end first.
    """
    for broker in others:
        data = read_contents(broker).data
        if data is not None and not data.is_of(desired.data):
            raise Temporary("Some of the engine's brokers still work on the former data; they have to end first.")
