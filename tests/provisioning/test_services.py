"""Wishes: what is accepted, what is refused and with which sentence, and that a refusal leaves nothing half-made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from billing.errors import LimitReached
from billing.plans import FREE
from common.errors import ControlPlaneError, NotFound, NotPermitted
from provisioning import selectors, services
from provisioning.errors import (
    AlreadyDeleting,
    DeletionProtected,
    InvalidSpec,
    LicenceRefuses,
    NotCancellable,
    NotRetryable,
    StaleGeneration,
)
from provisioning.models import Cluster, Operation, OperationStep, PlanType, Region
from provisioning.states import OperationKind, StepKind
from tenants.errors import InvalidName
from tenants.models import Audience, AuditEvent
from tenants.roles import Role
from tests.factories import Person, make_person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion

pytestmark = pytest.mark.django_db


@pytest.fixture
def cluster(alice: Person, region: PretendRegion) -> Cluster:
    return services.create_cluster(actor=alice.actor, request=ask()).cluster


def rows_of(person: Person) -> list[int]:
    """How much an organization has of everything a wish writes."""
    models = (Cluster, Operation, OperationStep, Audience, AuditEvent)
    return [model.objects.filter(organization=person.organization).count() for model in models]


def test_an_accepted_wish_has_an_operation_steps_and_an_audit_event(alice: Person, region: PretendRegion) -> None:
    operation = services.create_cluster(actor=alice.actor, request=ask())
    kinds = list(operation.steps.values_list("kind", flat=True))
    assert kinds == [StepKind.PREPARE_RELEASE, StepKind.START_ENGINE, StepKind.AWAIT_HEALTHY]
    event = AuditEvent.objects.get(target_id=str(operation.cluster_id))
    assert event.action == "cluster.create_requested"
    assert event.actor_label == alice.user.email
    assert event.source_address == alice.actor.source_address
    assert event.request_id == alice.actor.request_id
    assert event.changes["name"] == [None, "orders"]
    assert operation.cluster.due_at is not None


@pytest.mark.parametrize(
    ("overrides", "error", "field"),
    [
        ({"region": "mars"}, InvalidSpec, "region"),
        ({"region": "a\0b"}, InvalidSpec, "region"),
        ({"plan_type": "huge"}, InvalidSpec, "plan_type"),
        ({"channel": "nightly"}, InvalidSpec, "channel"),
        ({"release": "1.0.0"}, InvalidSpec, "release"),
        ({"release": "8.6.0"}, InvalidSpec, "release"),
        ({"stage": "production"}, InvalidSpec, "stage"),
        ({"name": ""}, InvalidName, "name"),
        ({"name": "x" * 51}, InvalidName, "name"),
        ({"name": "a\u202eb"}, InvalidName, "name"),
        ({"name": "tab\there"}, InvalidName, "name"),
        ({"channel": "next", "stage": "prod"}, LicenceRefuses, None),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_whole(
    alice: Person,
    region: PretendRegion,
    overrides: dict[str, str],
    error: type[ControlPlaneError],
    field: str | None,
) -> None:
    before = rows_of(alice)
    with pytest.raises(error) as caught:
        services.create_cluster(actor=alice.actor, request=ask(**overrides))
    assert caught.value.details.get("field") == field
    assert caught.value.message.endswith(".")
    assert rows_of(alice) == before


def test_a_refusal_names_what_is_on_offer(alice: Person, region: PretendRegion) -> None:
    with pytest.raises(InvalidSpec, match=r"On offer: .*small"):
        services.create_cluster(actor=alice.actor, request=ask(plan_type="huge"))


def test_a_closed_region_and_a_withdrawn_size_are_not_on_offer(alice: Person, region: PretendRegion) -> None:
    PlanType.objects.filter(slug="medium").update(is_offered=False)
    with pytest.raises(InvalidSpec):
        services.create_cluster(actor=alice.actor, request=ask(plan_type="medium"))
    Region.objects.filter(slug="pretend").update(is_open=False)
    with pytest.raises(InvalidSpec):
        services.create_cluster(actor=alice.actor, request=ask())


def test_the_plan_limits_clusters_and_a_deletion_frees_its_place_at_once(alice: Person, region: PretendRegion) -> None:
    made = [services.create_cluster(actor=alice.actor, request=ask(name=f"c{n}")) for n in range(FREE.max_clusters)]
    with pytest.raises(LimitReached) as caught:
        services.create_cluster(actor=alice.actor, request=ask(name="one more"))
    assert caught.value.details == {"limit": FREE.max_clusters, "used": FREE.max_clusters}
    services.request_deletion(actor=alice.actor, cluster_id=made[0].cluster_id)
    services.create_cluster(actor=alice.actor, request=ask(name="one more"))
    with pytest.raises(LimitReached):
        services.restore_cluster(actor=alice.actor, cluster_id=made[0].cluster_id)


def test_a_name_is_taken_only_while_its_cluster_is_wished(alice: Person, cluster: Cluster) -> None:
    with pytest.raises(InvalidSpec, match="already"):
        services.create_cluster(actor=alice.actor, request=ask())
    services.request_deletion(actor=alice.actor, cluster_id=cluster.pk)
    services.create_cluster(actor=alice.actor, request=ask())


@pytest.mark.parametrize(
    "change",
    [
        services.update_cluster,
        services.suspend_cluster,
        services.resume_cluster,
        services.revoke_access,
        services.request_deletion,
        services.restore_cluster,
    ],
)
def test_another_organizations_cluster_is_not_there(
    charlie: Person, cluster: Cluster, change: Callable[..., Any]
) -> None:
    with pytest.raises(NotFound):
        change(actor=charlie.actor, cluster_id=cluster.pk)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.BILLING])
def test_a_role_that_only_reads_changes_nothing(cluster: Cluster, role: Role) -> None:
    person = make_person(cluster.organization, role=role)
    before = rows_of(person)
    with pytest.raises(NotPermitted):
        services.suspend_cluster(actor=person.actor, cluster_id=cluster.pk)
    assert rows_of(person) == before


def test_a_developer_may_not_delete(bob: Person, cluster: Cluster) -> None:
    with pytest.raises(NotPermitted):
        services.request_deletion(actor=bob.actor, cluster_id=cluster.pk)


def test_a_stale_generation_is_refused(alice: Person, cluster: Cluster) -> None:
    services.update_cluster(actor=alice.actor, cluster_id=cluster.pk, expected_generation=1, name="renamed")
    with pytest.raises(StaleGeneration) as caught:
        services.update_cluster(actor=alice.actor, cluster_id=cluster.pk, expected_generation=1, name="again")
    assert caught.value.details["spec_generation"] == 2
    assert Cluster.objects.get(pk=cluster.pk).name == "renamed"


def test_a_change_that_changes_nothing_is_no_change(alice: Person, cluster: Cluster) -> None:
    before = rows_of(alice)
    services.update_cluster(actor=alice.actor, cluster_id=cluster.pk, name=cluster.name)
    services.resume_cluster(actor=alice.actor, cluster_id=cluster.pk)
    assert rows_of(alice) == before
    assert Cluster.objects.get(pk=cluster.pk).spec_generation == 1


def test_a_stage_that_the_licence_does_not_cover_is_refused_later_too(alice: Person, region: PretendRegion) -> None:
    made = services.create_cluster(actor=alice.actor, request=ask(channel="next"))
    with pytest.raises(LicenceRefuses):
        services.update_cluster(actor=alice.actor, cluster_id=made.cluster_id, stage="prod")


def test_protection_holds_until_it_is_switched_off(alice: Person, cluster: Cluster) -> None:
    services.update_cluster(actor=alice.actor, cluster_id=cluster.pk, is_protected=True)
    with pytest.raises(DeletionProtected):
        services.request_deletion(actor=alice.actor, cluster_id=cluster.pk)
    services.update_cluster(actor=alice.actor, cluster_id=cluster.pk, is_protected=False)
    services.request_deletion(actor=alice.actor, cluster_id=cluster.pk)


def test_nothing_but_a_restore_is_accepted_during_a_deletion(alice: Person, cluster: Cluster) -> None:
    services.request_deletion(actor=alice.actor, cluster_id=cluster.pk)
    for change in (services.suspend_cluster, services.request_deletion, services.revoke_access):
        with pytest.raises(AlreadyDeleting):
            change(actor=alice.actor, cluster_id=cluster.pk)
    services.restore_cluster(actor=alice.actor, cluster_id=cluster.pk)


def test_a_purge_cannot_be_undone(alice: Person, cluster: Cluster) -> None:
    services.request_deletion(actor=alice.actor, cluster_id=cluster.pk, purge=True)
    with pytest.raises(AlreadyDeleting):
        services.restore_cluster(actor=alice.actor, cluster_id=cluster.pk)


@pytest.mark.parametrize(
    ("change", "arguments", "reversible"),
    [
        (services.suspend_cluster, {}, True),
        (services.update_cluster, {"name": "other"}, True),
        (services.revoke_access, {}, False),
        (services.request_deletion, {}, True),
        (services.request_deletion, {"purge": True}, False),
    ],
)
def test_a_dry_run_tells_and_writes_nothing(
    alice: Person, cluster: Cluster, change: Callable[..., Any], arguments: dict[str, Any], reversible: bool
) -> None:
    before, row = rows_of(alice), Cluster.objects.filter(pk=cluster.pk).values().get()
    preview = services.preview(change, actor=alice.actor, cluster_id=cluster.pk, **arguments)
    assert preview.is_reversible is reversible
    assert preview.changes
    assert rows_of(alice) == before
    assert Cluster.objects.filter(pk=cluster.pk).values().get() == row


def test_a_dry_run_of_a_creation_tells_its_steps(alice: Person, region: PretendRegion) -> None:
    before = rows_of(alice)
    preview = services.preview(services.create_cluster, actor=alice.actor, request=ask())
    assert preview.steps == [StepKind.PREPARE_RELEASE, StepKind.START_ENGINE, StepKind.AWAIT_HEALTHY]
    assert preview.expected_seconds > 0
    assert not preview.interrupts_engine
    assert rows_of(alice) == before
    with pytest.raises(InvalidSpec):
        services.preview(services.create_cluster, actor=alice.actor, request=ask(region="mars"))


def test_what_is_well_or_over_is_neither_retried_nor_cancelled(alice: Person, cluster: Cluster) -> None:
    created = Operation.objects.get(cluster=cluster)
    with pytest.raises(NotRetryable):
        services.retry_operation(actor=alice.actor, operation_id=created.pk)
    services.revoke_access(actor=alice.actor, cluster_id=cluster.pk)
    with pytest.raises(NotCancellable):
        services.cancel_operation(actor=alice.actor, operation_id=created.pk)
    latest = Operation.objects.get(cluster=cluster, kind=OperationKind.REVOKE_ACCESS)
    with pytest.raises(NotCancellable):
        services.cancel_operation(actor=alice.actor, operation_id=latest.pk)


def test_another_organizations_operation_is_not_there(charlie: Person, cluster: Cluster) -> None:
    operation = Operation.objects.get(cluster=cluster)
    for change in (services.retry_operation, services.cancel_operation):
        with pytest.raises(NotFound):
            change(actor=charlie.actor, operation_id=operation.pk)
    with pytest.raises(NotFound):
        selectors.operation(charlie.actor, operation.pk)


def test_the_preview_of_what_is_so_already_is_empty(alice: Person, cluster: Cluster) -> None:
    services.suspend_cluster(actor=alice.actor, cluster_id=cluster.pk)
    preview = services.preview(services.suspend_cluster, actor=alice.actor, cluster_id=cluster.pk)
    assert (list(preview.steps), dict(preview.changes)) == ([], {})
    assert not preview.interrupts_engine
