"""Making, watching and changing clusters in the console."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db.models.functions import Now
from django.urls import reverse

from provisioning import services
from provisioning.models import Cluster, ClusterQuerySet, Operation, OperationStep, Region
from provisioning.selectors import ClusterView
from provisioning.states import StepKind
from tenants.scoping import OrganizationQuerySet
from tests.conftest import WebClient
from tests.console.conftest import REGION
from tests.factories import Person

Browser = Callable[[Person], WebClient]


def page(name: str, *args: object) -> str:
    """A console page's address."""
    return reverse(f"console:{name}", args=args)


def clusters(person: Person) -> ClusterQuerySet:
    """The clusters of a person's organization."""
    return Cluster.objects.for_organization(person.organization.pk)


def operations(person: Person) -> OrganizationQuerySet[Operation]:
    """The operations of a person's organization."""
    return Operation.objects.for_organization(person.organization.pk)


def test_a_filled_in_form_makes_a_cluster_and_shows_it(browser: Browser, alice: Person, wish: dict[str, str]) -> None:
    answer = browser(alice).post(page("cluster_new"), wish, follow=True)
    row = clusters(alice).get(name="payments")
    assert answer.redirect_chain == [(page("cluster", row.pk), 302)]
    text = answer.content.decode()
    assert "Creating" in text
    assert "Start the engine" in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": ""}, "Give it a name: it is empty."),
        ({"name": "x" * 51}, "This name has 51 characters; 50 is the most."),
        ({"name": "pay\u202ements"}, "Character 4 of this name (U+202E) is invisible"),
        ({"stage": "prod", "release": "next/8.6.0"}, "does not cover the stage “prod”"),
        ({"plan_type": "gigantic"}, "gigantic is not one of the available choices"),
        ({"region": "atlantis"}, "atlantis is not one of the available choices"),
        ({"release": "stable/1.0"}, "1.0 is not one of the available choices"),
    ],
)
def test_bad_input_is_said_and_nothing_typed_is_lost(
    browser: Browser, alice: Person, wish: dict[str, str], change: dict[str, str], sentence: str
) -> None:
    answer = browser(alice).post(page("cluster_new"), {**wish, **change})
    text = answer.content.decode()
    assert answer.status_code == 422
    assert sentence in text
    assert f'value="{(wish | change)["name"]}"' in text or not (wish | change)["name"]
    assert not clusters(alice).exists()


def test_a_region_is_chosen_where_there_are_several(browser: Browser, alice: Person, wish: dict[str, str]) -> None:
    session = browser(alice)
    Region.objects.exclude(slug=REGION).update(is_open=False)
    assert offered(session) == [REGION], "of one there is no choice"
    fields = {"backend": "local", "domain": "x.example", "max_clusters": 10}
    Region.objects.create(slug="berlin", name="Berlin", labels=["country=de"], **fields)
    Region.objects.create(slug="madrid", name="Madrid", labels=["country=es"], maintenance_since=Now(), **fields)
    assert offered(session) == ["", "country=de", "country=es", "berlin", "madrid", REGION]
    for name, choice in (("anywhere", ""), ("german", "country=de"), ("named", "madrid")):
        Cluster.objects.filter(organization=alice.organization).update(lifecycle="deleted")
        session.post(page("cluster_new"), {**wish, "name": name, "region": choice})
    found = {row.name: row.region_id for row in clusters(alice)}
    assert found == {"anywhere": "berlin", "german": "berlin", "named": "madrid"}
    refused = session.post(page("cluster_new"), {**wish, "region": "country=es"})
    assert "No region can take this cluster." in refused.content.decode()
    assert "madrid: it has been in maintenance since" in refused.content.decode()


def offered(session: WebClient) -> list[str]:
    """The choices of a new cluster's region."""
    return [value for value, _ in session.get(page("cluster_new")).context["form"].fields["region"].choices]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"maintenance_since": Now(), "maintenance_note": "Until noon."}, "UTC. Until noon. Changes are accepted"),
        ({"silent_since": Now()}, "Nowhere has not answered since"),
        ({"draining_since": Now()}, "Nowhere is being emptied"),
    ],
)
def test_what_is_so_of_a_region_is_said_on_the_list_and_on_the_clusters_page(
    browser: Browser, alice: Person, orders: ClusterView, fields: dict[str, Any], sentence: str
) -> None:
    session = browser(alice)
    addresses = (page("clusters"), page("cluster", orders.row.pk))
    for address in addresses:
        assert sentence not in session.get(address).content.decode()
    Region.objects.filter(pk=REGION).update(**fields)
    for address in addresses:
        assert sentence in session.get(address).content.decode()


def test_a_taken_name_is_said_at_the_name(
    browser: Browser, alice: Person, orders: ClusterView, wish: dict[str, str]
) -> None:
    answer = browser(alice).post(page("cluster_new"), {**wish, "name": "orders"})
    assert "You have a cluster named “orders” already" in answer.context["form"].errors["name"][0]


def test_more_clusters_than_the_plan_has_is_said(
    browser: Browser, alice: Person, orders: ClusterView, wish: dict[str, str]
) -> None:
    session = browser(alice)
    session.post(page("cluster_new"), wish)
    answer = session.post(page("cluster_new"), {**wish, "name": "third"})
    assert "Your plan includes 2 clusters" in answer.content.decode()
    assert clusters(alice).count() == 2


def test_the_plan_follows_the_form_and_writes_nothing(browser: Browser, alice: Person, wish: dict[str, str]) -> None:
    text = browser(alice).post(page("cluster_plan"), wish).content.decode()
    assert "Make the engine release ready" in text
    assert "Usually takes about" in text
    assert "inside one company" in text
    assert not operations(alice).exists()


def test_without_scripts_a_button_shows_the_plan(browser: Browser, alice: Person, wish: dict[str, str]) -> None:
    text = browser(alice).post(page("cluster_new"), {**wish, "foresee": "yes"}).content.decode()
    assert "Make the engine release ready" in text
    assert not clusters(alice).exists()


def test_the_plan_says_why_the_licence_refuses(browser: Browser, alice: Person, wish: dict[str, str]) -> None:
    answer = browser(alice).post(page("cluster_plan"), {**wish, "stage": "prod", "release": "next/8.6.0"})
    assert "does not cover the stage “prod”" in answer.content.decode()


def test_the_page_asks_every_second_while_something_moves_and_rarely_after(
    browser: Browser, alice: Person, orders: ClusterView
) -> None:
    session, address = browser(alice), page("cluster_live", orders.row.pk)
    assert 'hx-trigger="every 1s"' in session.get(address).content.decode()
    operations(alice).update(state="succeeded")
    assert 'hx-trigger="every 10s"' in session.get(address).content.decode()


def test_inside_the_undo_window_nothing_is_asked_every_second(
    browser: Browser, alice: Person, orders: ClusterView
) -> None:
    operation = services.request_deletion(actor=alice.actor, cluster_id=orders.row.pk)
    operation.steps.filter(kind=StepKind.UNDO_WINDOW).update(state="running")
    session = browser(alice)
    for address in (page("cluster_live", orders.row.pk), page("operation_live", operation.pk)):
        assert 'hx-trigger="every 10s"' in session.get(address).content.decode()


def test_a_step_says_what_it_waits_for(browser: Browser, alice: Person, orders: ClusterView) -> None:
    OperationStep.objects.filter(operation__cluster=orders.row, kind=StepKind.PREPARE_RELEASE).update(
        state="running", waits_for="the archive arrives from Maven Central: 41 of 203 MB"
    )
    text = browser(alice).get(page("cluster_live", orders.row.pk)).content.decode()
    assert "The archive arrives from Maven Central: 41 of 203 MB" in text
    assert "Progressing" in text


@pytest.mark.parametrize("change", ["suspend", "revoke-access"])
def test_a_change_shows_its_plan_before_it_is_made(
    browser: Browser, alice: Person, orders: ClusterView, change: str
) -> None:
    session, address = browser(alice), page(f"cluster_{change}", orders.row.pk)
    assert "The plan" in session.get(address).content.decode()
    assert operations(alice).count() == 1
    answer = session.post(address, {"generation": orders.row.spec_generation})
    assert answer.headers["Location"] == page("cluster", orders.row.pk)
    assert operations(alice).count() == 2


def test_a_change_that_changes_nothing_says_so(browser: Browser, alice: Person, orders: ClusterView) -> None:
    text = browser(alice).get(page("cluster_resume", orders.row.pk)).content.decode()
    assert "Nothing would change" in text
    assert "It can be undone" not in text


def test_a_plan_for_an_older_state_is_refused_and_shown_anew(
    browser: Browser, alice: Person, orders: ClusterView
) -> None:
    services.update_cluster(actor=alice.actor, cluster_id=orders.row.pk, name="orders two")
    address = page("cluster_suspend", orders.row.pk)
    answer = browser(alice).post(address, {"generation": 1})
    assert answer.status_code == 422
    assert "has changed since you read it" in answer.content.decode()
    assert 'name="generation" value="2"' in answer.content.decode()


def test_deleting_needs_the_name(browser: Browser, alice: Person, orders: ClusterView) -> None:
    session, address = browser(alice), page("cluster_delete", orders.row.pk)
    assert "Its data is kept until" in session.get(address).content.decode()
    answer = session.post(address, {"generation": 1, "typed_name": "order"})
    assert "This is not the cluster’s name" in answer.content.decode()
    assert 'value="order"' in answer.content.decode()
    session.post(address, {"generation": 1, "typed_name": "orders"})
    assert clusters(alice).get().lifecycle == "deleted"


def test_inside_the_undo_window_the_page_offers_to_restore(
    browser: Browser, alice: Person, orders: ClusterView
) -> None:
    services.request_deletion(actor=alice.actor, cluster_id=orders.row.pk)
    session = browser(alice)
    text = session.get(page("cluster", orders.row.pk)).content.decode()
    assert "Deletion scheduled" in text
    assert "Removed for good at" in text
    assert page("cluster_suspend", orders.row.pk) not in text
    session.post(page("cluster_restore", orders.row.pk), {"generation": 2})
    assert clusters(alice).get().lifecycle == "running"


def test_a_protected_cluster_says_how_to_delete_it(browser: Browser, alice: Person, orders: ClusterView) -> None:
    session = browser(alice)
    wish: dict[str, Any] = {"name": "orders", "stage": "dev", "is_protected": "on", "generation": 1}
    session.post(page("cluster_settings", orders.row.pk), wish)
    text = session.get(page("cluster_delete", orders.row.pk)).content.decode()
    assert "protected against deletion" in text
    assert page("cluster_settings", orders.row.pk) in text


def test_settings_keep_what_was_typed_when_refused(browser: Browser, alice: Person, orders: ClusterView) -> None:
    wish = {"name": "y" * 60, "stage": "test", "generation": 1}
    answer = browser(alice).post(page("cluster_settings", orders.row.pk), wish)
    assert "This name has 60 characters" in answer.content.decode()
    assert "y" * 60 in answer.content.decode()
    assert clusters(alice).get().name == "orders"


def test_an_operation_is_called_off_with_a_button(browser: Browser, alice: Person, orders: ClusterView) -> None:
    answer = browser(alice).post(page("operation_cancel", orders.current_operation_id), follow=True)
    assert "Called off" in answer.content.decode()
    assert clusters(alice).get().lifecycle == "deleted"


def test_retrying_what_did_not_fail_is_said(browser: Browser, alice: Person, orders: ClusterView) -> None:
    answer = browser(alice).post(page("operation_retry", orders.current_operation_id), follow=True)
    assert "There is nothing to try again" in answer.content.decode()


def test_lists_go_on_with_older_ones(browser: Browser, alice: Person, orders: ClusterView) -> None:
    for number in range(25):
        services.update_cluster(actor=alice.actor, cluster_id=orders.row.pk, name=f"orders {number}")
    session = browser(alice)
    first = session.get(page("operations"))
    assert len(first.context["operations"]) == 20
    second = session.get(page("operations"), {"cursor": first.context["next_cursor"]})
    assert len(second.context["operations"]) == 6


def test_a_cursor_of_somebody_elses_making_is_refused(browser: Browser, alice: Person) -> None:
    assert browser(alice).get(page("operations"), {"cursor": "nonsense"}).status_code == 400
