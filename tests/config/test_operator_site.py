"""The operator site: open to operators only, no secret on any page, and each change on record."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.db import connection
from django.db.models import Model
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing.models import Plan, Subscription
from provisioning import access, services
from provisioning.backends.base import Find
from provisioning.models import Channel, Cluster, Installation, Leftover, Operation, Region, Release
from provisioning.services import installation, leftovers
from provisioning.states import Hold, LeftoverState
from tenants import services as tenancy
from tenants.models import (
    AuditEvent,
    Credential,
    CredentialSecret,
    Invitation,
    MailKind,
    Organization,
    OutgoingMail,
    SigningKey,
    User,
)
from tests.conftest import WebClient
from tests.factories import Person, make_invitation, make_user
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion
from tests.provisioning.rows import make_backup

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> User:
    """Somebody who runs the installation."""
    return make_user(is_staff=True)


@pytest.fixture
def site(operator: User) -> WebClient:
    """The operator's browser."""
    client = WebClient()
    client.force_login(operator)
    return client


@pytest.fixture
def cluster(alice: Person, region: PretendRegion) -> Cluster:
    """A cluster of Acorn's, with all that belongs to it."""
    cluster = services.create_cluster(actor=alice.actor, request=ask()).cluster
    access.create_credential(actor=alice.actor, cluster_id=cluster.pk, name="worker")
    make_invitation(alice.organization)
    tenancy.ensure_signing_key()
    Subscription.objects.create(organization=alice.organization, plan=Plan.objects.get(slug="team"))
    OutgoingMail.objects.create(kind=MailKind.ALREADY_REGISTERED, address="a@example.com")
    make_backup(cluster)
    note_find(alice)
    installation.beat()
    return cluster


def note_find(alice: Person, **card: str) -> Leftover:
    """Something in the region that no cluster of ours stands for, with a card that says it is Acorn's."""
    card = {
        "organization": str(alice.organization.pk), "name": "lost", "stage": "dev", "plan_type": "small",
        "channel": "stable", "release": "8.5.8", "partitions": "1", "data_epoch": "0", **card,
    }  # fmt: skip
    find = Find(uuid4(), card=card, parts=("an engine that runs", "a folder of 3 MB"))
    leftovers.note_finds(Region.objects.get(slug="pretend"), [find])
    return Leftover.objects.get(cluster_id=find.cluster_id)


def page(client: WebClient, name: str, *args: Any) -> str:
    answer = client.get(reverse(f"admin:{name}", args=args))
    assert answer.status_code == 200, (name, answer.status_code)
    return str(answer.content.decode())


def opened(client: WebClient, address: str) -> dict[str, Any]:
    """What a browser sends of a page on which nothing is changed: its fields, and what they were when it was opened."""
    fields: dict[str, Any] = {}
    for bound in client.get(address).context["adminform"].form:
        value = bound.value()
        fields |= {} if value is None else {bound.html_name: value, bound.html_initial_name: value}
    return fields


def test_operators_sign_in_on_the_products_own_page(client: WebClient) -> None:
    answer = client.get("/operator/", follow=True)
    assert answer.redirect_chain[-1][0].startswith("/accounts/login/?next=/operator/")
    assert client.get("/operator/login/").status_code == 302


def test_a_customer_is_sent_away(client: WebClient, alice: Person, cluster: Cluster) -> None:
    client.force_login(alice.user)
    answer = client.get(reverse("admin:provisioning_cluster_changelist"), follow=True)
    assert answer.status_code == 403
    assert "orders" not in answer.content.decode()


def test_every_page_shows_rows_of_every_organization(site: WebClient, cluster: Cluster) -> None:
    page(site, "index")
    for model, page_admin in admin.site._registry.items():
        label = f"{model._meta.app_label}_{model._meta.model_name}"
        listed = page(site, f"{label}_changelist")
        row: Model | None = page_admin.get_queryset(site.get("/operator/").wsgi_request).first()
        assert row is not None, f"the test has no {label}"
        assert str(row.pk) in listed or str(row) in listed, label
        page(site, f"{label}_change", row.pk)


def test_only_our_own_apps_have_pages() -> None:
    assert {model._meta.app_label for model in admin.site._registry} == {"tenants", "billing", "provisioning"}


def test_no_secret_is_ever_rendered(site: WebClient, alice: Person, cluster: Cluster) -> None:
    secrets = [
        *CredentialSecret.objects.values_list("digest", flat=True),
        *Invitation.objects.values_list("token_digest", flat=True),
        *User.objects.exclude(password="").values_list("password", flat=True),
    ]
    sealed = [bytes(key.private_sealed).decode() for key in SigningKey.objects.all()]
    shown = page(site, "tenants_user_change", alice.user.pk)
    shown += page(site, "tenants_credential_change", Credential.objects.latest("created_at").pk)
    shown += page(site, "tenants_invitation_change", Invitation.objects.latest("created_at").pk)
    shown += page(site, "tenants_signingkey_change", SigningKey.objects.latest("created_at").pk)
    assert not [secret for secret in secrets + sealed if secret in shown]


def test_clusters_are_found_by_condition(site: WebClient, cluster: Cluster) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(
        conditions=[
            {"type": "Available", "status": "True", "reason": "PartitionsHealthy"},
            {"type": "Stalled", "status": "False", "reason": "NotStalled"},
        ]
    )
    url = reverse("admin:provisioning_cluster_changelist")
    assert str(cluster.pk) in site.get(f"{url}?available=True").content.decode()
    assert str(cluster.pk) not in site.get(f"{url}?stalled=True").content.decode()
    assert "Available True" in site.get(url).content.decode()


def test_the_plan_is_shown_and_not_carried_out(site: WebClient, cluster: Cluster, region: PretendRegion) -> None:
    text = page(site, "provisioning_cluster_plan", cluster.pk)
    assert "Make the engine release ready" in text
    assert "Wait until the engine reports every partition healthy" in text
    assert "license_key" not in text
    assert not [call for call in region.calls if "observe" not in str(call)]
    assert Operation.objects.get(cluster=cluster).state == "pending"


def test_reconcile_now_makes_the_cluster_due_and_is_on_record(
    site: WebClient, operator: User, cluster: Cluster
) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(due_at=None)
    url = reverse("admin:provisioning_cluster_reconcile", args=[cluster.pk])
    assert site.get(url).status_code == 405
    assert site.post(url).status_code == 302
    cluster.refresh_from_db()
    assert cluster.due_at is not None
    event = AuditEvent.objects.get(target_id=str(cluster.pk), action="operator.cluster.woken")
    assert (event.actor_kind, event.actor_label) == ("operator", operator.email)
    assert event.organization_id == cluster.organization_id


def test_a_change_of_the_catalogue_is_on_record_with_before_and_after(
    site: WebClient, operator: User, region: PretendRegion
) -> None:
    url = reverse("admin:provisioning_region_change", args=["pretend"])
    answer = site.post(url, opened(site, url) | {"name": "Pretended", "max_clusters": 10, "is_open": ""})
    assert answer.status_code == 302, answer.content.decode()
    assert Region.objects.get(slug="pretend").is_open is False
    event = AuditEvent.objects.get(action="operator.region.changed", target_id="pretend")
    assert event.changes["is_open"] == [True, False]
    assert event.changes["name"] == ["Pretend", "Pretended"]
    assert event.actor_id == str(operator.pk)


def test_what_moved_since_the_page_was_opened_is_not_put_back(
    site: WebClient, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move_once_more(region: Region) -> None:
        """Between the form's reading of the row and its writing."""
        Region.objects.filter(pk="pretend").update(placed=8, silence="It is on fire.")

    monkeypatch.setattr(Region, "clean", move_once_more)
    url = reverse("admin:provisioning_region_change", args=["pretend"])
    assert 'name="initial-is_open"' in page(site, "provisioning_region_change", "pretend")
    form = opened(site, url)
    Region.objects.filter(pk="pretend").update(is_open=False, max_clusters=9)
    answer = site.post(url, form | {"name": "Pretended"})
    assert answer.status_code == 302, answer.content.decode()
    region = Region.objects.get(pk="pretend")
    assert (region.name, region.is_open, region.max_clusters) == ("Pretended", False, 9)
    assert (region.placed, region.silence) == (8, "It is on fire.")
    event = AuditEvent.objects.get(action="operator.region.changed", target_id="pretend")
    assert event.changes == {"name": ["Pretend", "Pretended"]}


def test_a_list_that_grew_since_the_page_was_opened_stays_so(site: WebClient, cluster: Cluster) -> None:
    channel = Channel.objects.get(slug="stable")
    url = reverse("admin:provisioning_channel_change", args=["stable"])
    form = opened(site, url)
    fresh = Release.objects.exclude(channels=channel).first()
    assert fresh is not None
    channel.releases.add(fresh)
    answer = site.post(url, form | {"name": "Steady"})
    assert answer.status_code == 302, answer.content.decode()
    channel.refresh_from_db()
    assert channel.name == "Steady"
    assert fresh in channel.releases.all()


def test_the_list_of_regions_says_fill_state_and_last_answer_in_the_same_number_of_queries(
    site: WebClient, cluster: Cluster
) -> None:
    def listed() -> tuple[str, int]:
        with CaptureQueriesContext(connection) as queries:
            text = page(site, "provisioning_region_changelist")
        return text, len(queries)

    Region.objects.filter(pk="pretend").update(max_clusters=8, answered_at=Now())
    listed()  # what is read once in a session
    text, count = listed()
    assert "1 of 8 (12 %)" in text
    for number in range(5):
        fields = {"silent_since": Now(), "silence": "Renew the credentials.", "maintenance_since": Now()}
        Region.objects.create(slug=f"r{number}", name="R", backend="pretend", domain="r.example", **fields)
    text, again = listed()
    assert "maintenance since 20" in text
    assert "Renew the credentials." in text
    assert again == count


def test_maintenance_and_draining_are_buttons_and_on_record(site: WebClient, cluster: Cluster) -> None:
    def act(name: str, **fields: str) -> str:
        url = reverse("admin:provisioning_region_act", args=["pretend", name])
        assert site.get(url).status_code == 405
        return str(site.post(url, fields, follow=True).content.decode())

    assert "Pretend is in maintenance." in act("begin-maintenance", note="Until noon.")
    assert "No turn that was begun before is under way." in page(site, "provisioning_region_change", "pretend")
    assert Region.objects.get(pk="pretend").maintenance_note == "Until noon."
    assert "This region is in maintenance already." in act("begin-maintenance")
    assert "The maintenance of Pretend is over" in act("end-maintenance")
    assert "Pretend takes no new clusters." in act("begin-draining")
    shown = page(site, "provisioning_region_departures", "pretend")
    assert cluster.name in shown
    assert "How it leaves" in shown
    assert "Pretend is not being emptied any more." in act("end-draining")
    actions = AuditEvent.objects.filter(target_id="pretend", organization=None).values_list("action", flat=True)
    kinds = ("maintenance_begun", "maintenance_ended", "draining_begun", "draining_ended")
    assert set(actions) == {f"operator.region.{kind}" for kind in kinds}
    for name, slug in (("begin-nothing", "pretend"), ("begin-draining", "mars")):
        assert site.post(reverse("admin:provisioning_region_act", args=[slug, name])).status_code == 404
    assert site.get(reverse("admin:provisioning_region_departures", args=["mars"])).status_code == 404


def test_a_new_kubernetes_region_has_a_limit_unless_one_is_given(site: WebClient) -> None:
    def add(slug: str, **fields: str) -> int | None:
        body = {
            "slug": slug,
            "name": slug,
            "domain": "k.example",
            "is_open": "on",
            "labels": "country=de, a=b",
            **fields,
        }
        answer = site.post(reverse("admin:provisioning_region_add"), body)
        assert answer.status_code == 302, answer.content.decode()
        region = Region.objects.get(pk=slug)
        assert region.labels == ["country=de", "a=b"]
        return region.max_clusters

    assert add("k1", backend="kubernetes") == 4000
    assert add("k2", backend="kubernetes", max_clusters="7") == 7
    assert add("l1", backend="local") is None
    refused = site.post(
        reverse("admin:provisioning_region_add"),
        {"slug": "k3", "name": "k3", "domain": "k.example", "backend": "local", "labels": "gold"},
    )
    assert "“gold” is no label. Write it as name=value" in refused.content.decode()


def test_the_releases_of_a_channel_are_on_record_by_their_versions(site: WebClient, region: PretendRegion) -> None:
    url = reverse("admin:provisioning_channel_change", args=["stable"])
    assert site.post(url, opened(site, url) | {"releases": ["8.5.8", "8.6.0"]}).status_code == 302
    event = AuditEvent.objects.get(action="operator.channel.changed", target_id="stable")
    assert event.changes == {"releases": [["8.5.8"], ["8.5.8", "8.6.0"]]}


def test_an_organization_is_put_on_another_plan(site: WebClient, alice: Person) -> None:
    fields = {"organization": str(alice.organization.pk), "plan": "team"}
    assert site.post(reverse("admin:billing_subscription_add"), fields).status_code == 302
    assert Subscription.objects.get(organization=alice.organization).plan_id == "team"
    event = AuditEvent.objects.get(action="operator.subscription.added", organization=alice.organization)
    assert event.changes["plan"] == [None, "team"]


def test_only_a_superuser_makes_operators(site: WebClient, alice: Person) -> None:
    url = reverse("admin:tenants_user_change", args=[alice.user.pk])
    inline = {"memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0}
    assert site.post(url, {"is_active": "on", "is_staff": "on", "is_superuser": "on", **inline}).status_code == 302
    alice.user.refresh_from_db()
    assert (alice.user.is_staff, alice.user.is_superuser) == (False, False)


def test_history_and_clusters_cannot_be_edited(site: WebClient, cluster: Cluster) -> None:
    event = AuditEvent.objects.filter(target_id=str(cluster.pk)).latest("at")
    assert site.post(reverse("admin:tenants_auditevent_change", args=[event.pk]), {"action": "x"}).status_code == 403
    assert site.post(reverse("admin:tenants_auditevent_delete", args=[event.pk]), {"post": "yes"}).status_code == 403
    changed = site.post(reverse("admin:provisioning_cluster_change", args=[cluster.pk]), {"name": "x"})
    assert changed.status_code == 403
    assert Organization.objects.filter(pk=cluster.organization_id).exists()


# --- what waits for an operator -------------------------------------------------------------------------------------


def event_of(action: str) -> AuditEvent:
    return AuditEvent.objects.get(action=action)


def test_a_hold_is_shown_found_and_released(site: WebClient, operator: User, cluster: Cluster) -> None:
    address = reverse("admin:provisioning_cluster_changelist")
    assert "Release the hold" not in page(site, "provisioning_cluster_change", cluster.pk)
    Cluster.objects.filter(pk=cluster.pk).update(hold=Hold.SET_BACK, due_at=None)
    for query, is_found in (("any", True), ("set_back", True), ("unexplained", False)):
        assert (str(cluster.pk) in site.get(f"{address}?hold={query}").content.decode()) is is_found
    assert "Held (set_back)" in page(site, "provisioning_cluster_change", cluster.pk)
    release = reverse("admin:provisioning_cluster_release", args=[cluster.pk])
    assert site.get(release).status_code == 405
    site.post(release)
    cluster.refresh_from_db()
    assert (cluster.hold, cluster.due_at is not None) == ("", True)
    event = event_of("operator.cluster.released")
    assert (event.actor_label, event.changes) == (operator.email, {"hold": ["set_back", ""]})
    assert "was not held" in site.post(release, follow=True).content.decode()
    assert AuditEvent.objects.filter(action="operator.cluster.released").count() == 1
    assert site.post(reverse("admin:provisioning_cluster_release", args=[uuid4()])).status_code == 404


def test_a_find_is_adopted_after_a_preview(
    site: WebClient, operator: User, alice: Person, region: PretendRegion
) -> None:
    entry = note_find(alice)
    text = page(site, "provisioning_leftover_change", entry.pk)
    assert "an engine that runs" in text
    assert "This row would be made again" in text
    assert not Cluster.objects.filter(pk=entry.cluster_id).exists()
    adopt = reverse("admin:provisioning_leftover_adopt", args=[entry.pk])
    assert site.get(adopt).status_code == 405
    answer = site.post(adopt, follow=True)
    assert "“lost” is a cluster of Acorn again" in answer.content.decode()
    row = Cluster.objects.get(pk=entry.cluster_id)
    assert (row.name, row.organization) == ("lost", alice.organization)
    assert event_of("operator.leftover.adopted").actor_label == operator.email
    again = site.post(adopt, follow=True).content.decode()
    assert "does not wait for anybody any more" in again
    assert "Adopt it" not in page(site, "provisioning_leftover_change", entry.pk)


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        ({"organization": str(uuid4())}, "names no organization"),
        ({"plan_type": "gigantic"}, "does not say enough"),
        ({"drill": "yes"}, "a copy that proved a backup"),
    ],
)
def test_a_find_that_cannot_be_adopted_says_why(
    site: WebClient, alice: Person, region: PretendRegion, card: dict[str, str], sentence: str
) -> None:
    entry = note_find(alice, **card)
    text = page(site, "provisioning_leftover_change", entry.pk)
    assert sentence in text
    assert "Adopt it" not in text
    refused = site.post(reverse("admin:provisioning_leftover_adopt", args=[entry.pk]), follow=True)
    assert sentence in refused.content.decode()
    assert not Cluster.objects.filter(pk=entry.cluster_id).exists()


def test_a_find_is_removed_when_an_operator_says_so(
    site: WebClient, operator: User, alice: Person, region: PretendRegion
) -> None:
    entry = note_find(alice)
    assert "Nothing of it can be restored" in page(site, "provisioning_leftover_change", entry.pk)
    answer = site.post(reverse("admin:provisioning_leftover_remove", args=[entry.pk]), follow=True)
    assert "as soon as the region allows" in answer.content.decode()
    entry.refresh_from_db()
    assert entry.state == LeftoverState.REMOVING
    assert event_of("operator.leftover.removal_requested").actor_label == operator.email
    assert site.post(reverse("admin:provisioning_leftover_remove", args=[uuid4()])).status_code == 404


def test_what_has_ended_is_out_of_sight(site: WebClient, alice: Person, region: PretendRegion) -> None:
    entry = note_find(alice)
    leftovers.note_gone(entry)
    address = reverse("admin:provisioning_leftover_changelist")
    assert str(entry.cluster_id) not in site.get(address).content.decode()
    assert str(entry.cluster_id) in site.get(f"{address}?ended=yes").content.decode()
    page(site, "provisioning_leftover_change", entry.pk)


def test_a_database_set_back_is_told_and_acknowledged(site: WebClient, operator: User, cluster: Cluster) -> None:
    row = Installation.objects.get()
    acknowledge = reverse("admin:provisioning_installation_acknowledge")
    assert "As usual" in page(site, "provisioning_installation_change", row.pk)
    assert "nothing to acknowledge" in site.post(acknowledge, follow=True).content.decode()
    lost = {
        "client_id": "lost-client",
        "secret": "fps_lost",
        "name": "order workers",
        "organization": "x",
        "cluster": "y",
        "created_at": "z",
        "revoked_at": "",
    }
    installation.set_back({"beat": 99, "credentials": [lost]})
    text = page(site, "provisioning_installation_change", row.pk)
    assert "Set back" in text
    assert "lost-client" in text
    assert f"{reverse('admin:provisioning_cluster_changelist')}?hold=any" in text
    assert site.get(acknowledge).status_code == 405
    site.post(acknowledge)
    row.refresh_from_db()
    assert row.set_back_at is None
    assert event_of("operator.installation.acknowledged").actor_label == operator.email
    cluster.refresh_from_db()
    assert cluster.hold == Hold.SET_BACK, "what differs stays held"


def test_an_installation_that_knows_nothing_of_itself_yet(site: WebClient, region: PretendRegion) -> None:
    page(site, "provisioning_installation_changelist")
    assert site.post(reverse("admin:provisioning_installation_acknowledge")).status_code == 404


def test_backups_and_the_ledger_cannot_be_edited(site: WebClient, alice: Person, cluster: Cluster) -> None:
    for name, row in (
        ("backup", cluster.backups.get()),
        ("leftover", Leftover.objects.latest("found_at")),
        ("installation", Installation.objects.get()),
    ):
        assert site.post(reverse(f"admin:provisioning_{name}_change", args=[row.pk]), {"state": "x"}).status_code == 403
        assert site.get(reverse(f"admin:provisioning_{name}_add")).status_code == 403


def test_a_cluster_that_is_missing_is_shown_with_its_age_and_nothing_to_decide(
    site: WebClient, cluster: Cluster
) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(was_healthy=True, created_at=Now() - timedelta(days=1))
    leftovers.note_missing(cluster.region, [])
    entry = Leftover.objects.get(cluster_id=cluster.pk)
    assert f"loss {cluster.pk}" in page(site, "provisioning_leftover_changelist")
    shown = page(site, "provisioning_leftover_change", entry.pk)
    assert "nothing of it was found" in shown
    assert "Adopt it" not in shown
    assert "Remove it" not in shown
