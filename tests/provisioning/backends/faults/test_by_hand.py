"""Somebody edits or deletes what is ours, one object of each kind: put right within a turn, what is theirs kept."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db.models.functions import Now

from common.errors import Temporary
from provisioning import wakeups
from provisioning.backends.kubernetes.healing import MAX_HEALS
from provisioning.models import Cluster
from provisioning.planner import StartEngine, plan
from tests.kubernetes import Namespace
from tests.provisioning.backends.contract import await_change, follow, persist
from tests.provisioning.backends.faults.customers import Customers, desired_of, loop_until
from tests.provisioning.backends.faults.stage import Region
from tests.provisioning.backends.test_kubernetes import EDITS

pytestmark = [pytest.mark.kubernetes]
THEIRS = "somebody.example/note"
# Of the certificate, a new one is as good.
ANEW = ("secret/engine-tls",)


def wished(one: dict[str, object]) -> tuple[object, ...]:
    """What of an object is ours to wish."""
    return one.get("spec"), one.get("data"), one.get("automountServiceAccountToken")


def objects_in(place: Namespace) -> dict[str, Any]:
    """One object of each kind, as it is now."""
    return dict(zip(EDITS, place.get(*EDITS)["items"], strict=True))


def tamper(name: str, one: Any) -> None:
    """Do what somebody does who also leaves a note and a label."""
    EDITS[name](one)
    for where in ("annotations", "labels"):
        one["metadata"].setdefault(where, {})[THEIRS] = "kept"


def test_each_kind_is_put_right_in_place_with_what_others_wrote_on_it(region: Region) -> None:
    """Guarantee: one turn puts all of them right; each stays the object that it was, foreign notes and labels kept."""
    desired = region.healthy()
    place, uids = region.place(desired), region.uids(desired)
    before = objects_in(place)
    for name in EDITS:
        place.edit(name, partial(tamper, name))
    assert plan(desired, persist(region.backend.observe, desired)) == StartEngine(())

    persist(region.backend.start, desired, (), epoch=region.next_epoch())

    region.settle(desired)
    assert region.uids(desired) == uids
    after = objects_in(place)
    for name, old in before.items():
        now = after[name]
        assert now["metadata"]["annotations"][THEIRS] == "kept", name
        assert now["metadata"]["labels"][THEIRS] == "kept", name
        assert name in ANEW or wished(now) == wished(old), name
    region.remove(desired)


@pytest.mark.chaos
def test_all_that_was_deleted_is_made_again_by_the_loop_itself(customers: Customers) -> None:
    """Guarantee (F24): nobody asks for it: the watch tells, a turn finds it out, and no pod is restarted."""
    row, region = customers.new().healthy(), customers.region
    desired = desired_of(row.pk)
    before = region.uids(desired)
    Cluster.objects.filter(pk=row.pk).update(due_at=Now() + timedelta(hours=1))
    said: list[str] = []

    def delete() -> None:
        said.append(region.place(desired).kubectl("delete", *EDITS, "--cascade=orphan"))

    with follow(region.judge.another_backend(), row.pk, delete) as changes:
        await_change(changes, row.pk, lambda: bool(said))
    wakeups.wake(row.pk)
    loop_until(lambda: plan(desired, region.judge.backend.observe(desired)) is None)
    region.settle(desired)

    kept = {name: uid for name, uid in region.uids(desired).items() if before[name] == uid}
    assert {"Pod/broker-0", "PersistentVolumeClaim/data-broker-0"} <= set(kept)
    assert len(kept) <= len(before) - len(EDITS)


@pytest.mark.chaos
def test_two_writers_do_not_flip_a_field_for_ever(region: Region) -> None:
    """Guarantee (F20): after a few times it is left as it is, and somebody is told."""
    desired = region.healthy()
    edits = {"spec": {"publishNotReadyAddresses": False}}
    for _ in range(MAX_HEALS):
        region.patch(desired, "service/brokers", edits)
        region.backend.start(desired, (), epoch=region.next_epoch())
    region.patch(desired, "service/brokers", edits)
    asked = len(region.proxy.asked)
    with pytest.raises(Temporary, match="again and again"):
        region.backend.start(desired, (), epoch=region.next_epoch())

    assert len(region.proxy.asked) == asked
    region.another_backend().start(desired, (), epoch=region.next_epoch())
    region.settle(desired)
    region.remove(desired)
