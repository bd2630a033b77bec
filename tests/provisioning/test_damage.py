"""An engine that cannot read its data: said, left alone, and brought back by a person's wish."""

from __future__ import annotations

import pytest

from provisioning import reconciler, selectors, services
from provisioning.models import Cluster
from provisioning.states import ConditionType, OperationState, Phase
from provisioning.verdicts import Verdict
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.test_changes import backed_up, fresh, made
from tests.provisioning.test_reconciler import latest, make_due, turn_until_rest

pytestmark = pytest.mark.django_db

# Most damaged engines run on without ever coming up; some end.
ENDS = pytest.mark.parametrize("ends", [False, True], ids=["runs on", "ends"])


@pytest.fixture
def healthy(alice: Person, region: PretendRegion) -> Cluster:
    return made(alice, ask(channel="next", release="8.5.8"))


def take_turns(cluster: Cluster, number: int = 8) -> None:
    for _ in range(number):
        make_due(cluster)
        reconciler.turn(cluster.pk)


def suspended(person: Person, cluster: Cluster) -> None:
    services.suspend_cluster(actor=person.actor, cluster_id=cluster.pk)
    turn_until_rest(cluster)


def resume(person: Person, cluster: Cluster) -> selectors.OperationView:
    services.resume_cluster(actor=person.actor, cluster_id=cluster.pk)
    take_turns(cluster)
    return latest(cluster, person)


def said_of(person: Person, cluster: Cluster) -> dict[ConditionType, str]:
    return {one.type: one.message for one in selectors.cluster(person.actor, cluster.pk).conditions}


@ENDS
def test_it_is_started_once_and_a_backup_brings_it_back(
    alice: Person, healthy: Cluster, region: PretendRegion, ends: bool
) -> None:
    backup = backed_up(alice, healthy)
    suspended(alice, healthy)
    region.damaged, region.crash_on_start = 0, ends
    starts = region.starts
    operation = resume(alice, healthy)

    assert (operation.state, operation.error_code) == (OperationState.FAILED, "data_damaged")
    assert operation.verdict is Verdict.NEEDS_US
    assert operation.error_message.startswith("Files are damaged.")
    assert "Restore a backup" in operation.error_message
    said = said_of(alice, healthy)
    assert said[ConditionType.AVAILABLE] == said[ConditionType.STALLED] == operation.error_message
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.UNHEALTHY
    assert region.starts == starts + 1

    region.crash_on_start = False
    services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=backup.pk)
    turn_until_rest(healthy)
    assert latest(healthy, alice).state is OperationState.SUCCEEDED
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


def test_whoever_has_mended_the_files_has_it_started_again(
    alice: Person, healthy: Cluster, region: PretendRegion
) -> None:
    suspended(alice, healthy)
    region.damaged, region.crash_on_start = 0, True
    failed = resume(alice, healthy)
    region.damaged, region.crash_on_start = None, False
    take_turns(healthy)
    assert not region.is_running(healthy.pk)

    services.retry_operation(actor=alice.actor, operation_id=failed.id)
    turn_until_rest(healthy)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


@ENDS
def test_one_that_comes_back_damaged_by_itself_is_not_started_again_and_again(
    alice: Person, healthy: Cluster, region: PretendRegion, ends: bool
) -> None:
    region.kill(healthy.pk)
    region.damaged, region.crash_on_start = 0, ends
    starts = region.starts
    take_turns(healthy)
    assert region.starts == starts + 1
    assert said_of(alice, healthy)[ConditionType.AVAILABLE].startswith("Files are damaged.")
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.UNHEALTHY

    suspended(alice, healthy)
    region.damaged, region.crash_on_start = None, False
    resume(alice, healthy)
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY


@ENDS
def test_restored_data_that_cannot_be_read_is_taken_back_at_once(
    alice: Person, healthy: Cluster, region: PretendRegion, ends: bool
) -> None:
    backup = backed_up(alice, healthy)
    services.restore_backup(actor=alice.actor, cluster_id=healthy.pk, backup_id=backup.pk)
    region.damaged, region.crash_on_start = fresh(healthy).data_epoch, ends
    take_turns(healthy, 4)  # fetch, stop, start, and no further start
    operation = latest(healthy, alice)
    assert operation.error_code == "restore_failed"
    assert operation.error_message == "Files are damaged. The cluster goes back to the data it had before."
    region.crash_on_start = False
    turn_until_rest(healthy)
    assert region.clusters[healthy.pk].brokers[0].data_epoch == 0
    assert selectors.cluster(alice.actor, healthy.pk).phase is Phase.HEALTHY
