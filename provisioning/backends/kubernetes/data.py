"""Jobs on a broker's volume: fetching the wished data from a backup, and removing what is kept for going back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import Temporary
from provisioning.backends.engine.origins import Contents, Origin, decide, rank
from provisioning.backends.engine.store import TURN_TIMEOUT, Store
from provisioning.backends.kubernetes import apply
from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.charts import Charts, Identity, Wish
from provisioning.backends.kubernetes.errors import Changed
from provisioning.backends.kubernetes.fence import Ground
from provisioning.backends.kubernetes.holdings import Holdings
from provisioning.backends.kubernetes.kinds import CLAIM, JOB, STATEFUL_SET, Object, meta, name_in, notes_in
from provisioning.backends.kubernetes.names import LETS_GO, RESTORE, claim_of, selector_of
from provisioning.backends.kubernetes.observe import job_state, restore_name, restore_wish
from provisioning.backends.kubernetes.pods import note_of
from provisioning.backends.kubernetes.settings import KubernetesSettings
from provisioning.spec import BackupRef, DesiredCluster, Work

_BYTES_PER_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Volumes:
    """What one turn does on the volumes of one cluster."""

    api: Api
    charts: Charts
    settings: KubernetesSettings
    desired: DesiredCluster
    ground: Ground
    held: Holdings

    # --- starting ---

    def require_usable(self, nodes: Iterable[int]) -> int | None:
        """Refuse to start brokers on data that is not there, or that the release cannot read; the volume's own keeper
        would refuse as well, but only there and then. Return from which broker on they may begin with nothing.

        One request when data of another epoch is wished.

        Raises:
            Temporary: the wished data is not there yet.
            Permanent: it is a newer release's, and nothing was kept for going back.
        """
        wished, release = self.desired.data, self.desired.release.version
        contents = {node: self._contents(node) for node in self.desired.nodes}
        has_any = [node for node in contents if _has(contents[node], wished.epoch)]
        jobs = self._jobs() if wished.epoch and len(has_any) < len(contents) else {}
        empty: list[int] = []
        for node in nodes:
            if node not in contents:
                continue
            incoming = self._incoming(jobs, node)
            may_be_empty = wished.epoch == 0 or bool(has_any)
            decide(contents[node], incoming, wished, release, may_be_empty=may_be_empty)
            if wished.epoch and incoming is None and contents[node].data is None:
                empty.append(node)
        return min(empty, default=self.held.empty_from if wished.epoch else None)

    def keep_notes(self, nodes: Iterable[int]) -> None:
        """Note on each claim what its pod, which is about to go, has found on the volume. One request for each.

        As of this very pod: while it takes its time to end, its own older word must not count for more than the note.
        """
        for node in nodes:
            pod, claim = self.held.pods.get(node), self.held.claims.get(node)
            if pod is None or claim is None or pod.contents is None:
                continue
            self._note(node, self._contents(node), pod.uid)

    def is_to_begin_anew(self, node: int) -> bool:
        """Whether a broker goes back to a release whose data only the others have: a copy from before lacks what it
        has said yes to since, and could outvote the one that has it.

        Raises:
            Temporary: the others are not well, and what this one has may be missing there.
        """
        data = self._contents(node).data
        wished, release = self.desired.data, self.desired.release.version
        if self.desired.size.replication_factor == 1 or data is None or not data.is_of(wished):
            return False
        if rank(data.release or release) <= rank(release):
            return False
        others = [other for other in self.desired.nodes if other != node]
        known = [origin for other in others if (origin := self._contents(other).data) is not None]
        if len(known) < len(others) or any(rank(origin.release) > rank(release) for origin in known):
            return False
        if any(other not in self.held.ready for other in others):
            raise Temporary("The other brokers have to be well before one begins anew.")
        return True

    # --- restoring ---

    def restore(self, identity: Identity, source: BackupRef) -> None:
        """Begin a Job for each wished broker whose data is neither there nor coming."""
        jobs = self._jobs()
        missing = [node for node in self.desired.nodes if self._lacks_data(jobs, node)]
        if not missing:
            return
        wish = Wish(self.desired, self.held.replicas, self.held.empty_from, self._restore_values(missing, source))
        rendered = apply.finish(self.charts.render(wish, identity), self.held, starts=self.held.starts)
        apply.lay_down(self.api, self.ground, rendered, with_workloads=False)
        self._provide_claims(rendered, missing)
        for node in missing:
            self._begin(rendered, restore_name(self.desired, node), {RESTORE: restore_wish(self.desired)}, jobs)

    def _restore_values(self, nodes: list[int], source: BackupRef) -> Mapping[str, Any]:
        """Return what the chart is told of a backup: what the store says of it, so that its log's end is checked."""
        assert self.settings.store is not None
        content = Store(self.settings.store, TURN_TIMEOUT).look_into(source)
        told: dict[str, Any] = {
            "enabled": True,
            "dataEpoch": str(self.desired.data.epoch),
            "brokers": nodes,
            "backup": source.number,
            "basePath": str(source.cluster_id),
        }
        if content is not None:
            told |= {
                "release": content.release,
                "mebibytes": -(-content.size_bytes // _BYTES_PER_MIB),
                "checkpoints": {str(partition): str(at) for partition, at in content.checkpoints.items()},
            }
        return {"restore": told}

    def _provide_claims(self, rendered: Iterable[Object], nodes: Iterable[int]) -> None:
        """Make the volumes that the brokers will have; a StatefulSet takes a claim of its name as its own."""
        workload = next(one for one in rendered if one["kind"] == STATEFUL_SET.name)
        template = workload["spec"]["volumeClaimTemplates"][0]
        for node in nodes:
            if node in self.held.claims:
                continue
            about = {**meta(template), "name": claim_of(node), "annotations": note_of(Contents())}
            try:
                self.api.create(CLAIM, self.ground.namespace, {**template, "metadata": about})
            except Changed:
                continue  # there by now

    def _lacks_data(self, jobs: Mapping[str, Object], node: int) -> bool:
        if _has(self._contents(node), self.desired.data.epoch):
            return False
        job = jobs.get(restore_name(self.desired, node))
        is_it = job is not None and notes_in(job).get(RESTORE) == restore_wish(self.desired)
        return job is None or not is_it or job_state(job) is Work.FAILED

    def _incoming(self, jobs: Mapping[str, Object], node: int) -> Origin | None:
        job = jobs.get(restore_name(self.desired, node))
        is_it = job is not None and notes_in(job).get(RESTORE) == restore_wish(self.desired)
        return Origin.of(self.desired.data) if job is not None and is_it and job_state(job) is Work.DONE else None

    # --- letting go ---

    def let_go(self, identity: Identity) -> None:
        """Begin a Job for each broker that keeps something, or note its end; also forget finished restores."""
        jobs = self._jobs()
        keeping = [node for node in self.held.claims if self._contents(node).former is not None]
        if keeping:
            values = {"letGo": {"enabled": True, "brokers": keeping}}
            wish = Wish(self.desired, self.held.replicas, self.held.empty_from, values)
            rendered = self.charts.render(wish, identity)
            for node in keeping:
                self._let_go_of(rendered, node, jobs)
        for name, job in jobs.items():
            if name.startswith("restore-") and job_state(job) is not Work.RUNNING:
                self.api.delete(JOB, self.ground.namespace, name, uid=str(meta(job)["uid"]))

    def _let_go_of(self, rendered: Iterable[Object], node: int, jobs: Mapping[str, Object]) -> None:
        name, pod = f"let-go-{node}", self.held.pods.get(node)
        uid = pod.uid if pod is not None else ""
        job = jobs.get(name)
        is_it = job is not None and notes_in(job).get(LETS_GO) == uid
        if job is not None and is_it and job_state(job) is Work.DONE:
            self._note(node, Contents(self._contents(node).data), uid)
            self.api.delete(JOB, self.ground.namespace, name, uid=str(meta(job)["uid"]))
        elif job is None or not is_it or job_state(job) is Work.FAILED:
            self._begin(rendered, name, {LETS_GO: uid}, jobs)

    # --- both ---

    def _begin(
        self, rendered: Iterable[Object], name: str, notes: Mapping[str, str], jobs: Mapping[str, Object]
    ) -> None:
        """Make a Job, in the place of an earlier one that has come to its end."""
        if (former := jobs.get(name)) is not None:
            is_at_work = job_state(former) is Work.RUNNING
            self.api.delete(JOB, self.ground.namespace, name, uid=str(meta(former)["uid"]), in_order=is_at_work)
            if is_at_work:
                raise Temporary("An earlier attempt is being ended first.", retry_after_seconds=2.0)
        job = next(one for one in rendered if one["kind"] == JOB.name and name_in(one) == name)
        about = {**meta(job), "annotations": {**notes_in(job), **notes}}
        self.api.create(JOB, self.ground.namespace, {**job, "metadata": about})

    def _jobs(self) -> dict[str, Object]:
        items = self.api.find(JOB, self.ground.namespace, selector=selector_of(self.ground.cluster_id)).items
        return {name_in(one): one for one in items}

    def _note(self, node: int, contents: Contents, pod_uid: str) -> None:
        change = {"metadata": {"annotations": note_of(contents, pod_uid)}}
        self.api.merge(CLAIM, self.ground.namespace, claim_of(node), change)

    def _contents(self, node: int) -> Contents:
        return self.held.contents(node, self.desired.data)


def _has(contents: Contents, epoch: int) -> bool:
    return any(one is not None and one.epoch == epoch for one in (contents.data, contents.former))
