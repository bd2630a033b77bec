"""Twenty at once: what is counted stays counted. These commit, so they use names of their own and leave them behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import Q

from common.errors import ControlPlaneError
from tenants import mail, services
from tenants.models import Invitation, MailKind, Membership, OutgoingMail
from tests.conftest import set_role
from tests.factories import Person, make_audience, make_credential, make_invitation, make_person

AT_ONCE = 20


@pytest.fixture
def owner(django_db_setup: None, django_db_blocker: Any) -> Iterator[Person]:
    """An owner whose rows are really committed."""
    with django_db_blocker.unblock():
        person = committed(make_person)
        yield person
        ours = Q(user=person.user) | Q(invitation__organization=person.organization)
        committed(lambda: OutgoingMail.objects.filter(ours).delete())
        connection.close()


def committed(act: Callable[[], Any]) -> Any:
    """Do it in a transaction of its own, as the system."""
    with transaction.atomic():
        set_role("flowplane_system")
        return act()


def outcomes(act: Callable[[], Any]) -> list[str]:
    """What became of twenty calls made at once: "done", or the refusal's code."""

    def call(_: int) -> str:
        try:
            committed(act)
        except ControlPlaneError as error:
            return error.code
        finally:
            connection.close()
        return "done"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sorted(pool.map(call, range(AT_ONCE)))


def test_no_more_are_invited_than_there_are_seats(owner: Person) -> None:
    def invite() -> None:
        address = f"guest-{uuid4().hex}@example.com"
        services.invite_member(actor=owner.actor, email=address, role="viewer", member_limit=lambda _: 5)

    assert outcomes(invite) == ["done"] * 4 + ["entitlement_exceeded"] * 16
    assert committed(lambda: Invitation.objects.filter(organization=owner.organization).count()) == 4


def test_an_invitation_is_accepted_once(owner: Person) -> None:
    guest = committed(make_person)
    _, token = committed(lambda: make_invitation(owner.organization, email=guest.user.email))

    def accept() -> None:
        services.accept_invitation(actor=guest.actor, token=token, member_limit=lambda _: 9)

    assert outcomes(accept) == ["done"] + ["invitation_unusable"] * 19
    assert committed(lambda: Membership.objects.filter(organization=owner.organization).count()) == 2


def test_no_more_credentials_are_made_than_the_plan_allows(owner: Person) -> None:
    audience = committed(lambda: make_audience(owner.organization))
    made = outcomes(lambda: make_credential(owner, audience_id=audience.pk, limit=3))
    assert made == ["done"] * 3 + ["entitlement_exceeded"] * 17


def test_no_third_secret_is_made(owner: Person) -> None:
    audience = committed(lambda: make_audience(owner.organization))
    new = committed(lambda: make_credential(owner, audience_id=audience.pk))
    made = outcomes(lambda: services.add_secret(actor=owner.actor, credential_id=new.credential.pk))
    assert made == ["credential_limit"] * 19 + ["done"]


def test_two_heirs_cannot_both_inherit(owner: Person) -> None:
    heirs = iter([committed(lambda: make_person(owner.organization)) for _ in range(AT_ONCE)])
    made = outcomes(lambda: services.transfer_ownership(actor=owner.actor, membership_id=next(heirs).membership.pk))
    assert made == ["done"] + ["not_permitted"] * 19
    owners = committed(lambda: list(Membership.objects.filter(organization=owner.organization, role="owner")))
    assert len(owners) == 1


def test_a_mail_is_sent_by_one_of_many_workers(owner: Person) -> None:
    committed(lambda: services.queue_mail(kind=MailKind.SECURITY_NOTICE, address=owner.user.email, user=owner.user))
    row = committed(lambda: OutgoingMail.objects.get(user=owner.user))
    sent: list[bool] = []
    outcomes(lambda: sent.append(mail.deliver(row.pk)))
    assert sorted(sent) == [False] * 19 + [True]


def test_withdrawing_an_invitation_while_it_is_accepted_never_deadlocks(owner: Person) -> None:
    guest = committed(make_person)
    for _ in range(5):
        invitation, token = committed(lambda: make_invitation(owner.organization, email=guest.user.email))

        def either(number: int, invitation: Invitation = invitation, token: str = token) -> None:
            if number % 2:
                services.accept_invitation(actor=guest.actor, token=token, member_limit=lambda _: 9)
            else:
                services.revoke_invitation(actor=owner.actor, invitation_id=invitation.pk)

        numbers = iter(range(AT_ONCE))

        def next_one(numbers: Iterator[int] = numbers) -> None:
            either(next(numbers))

        became = outcomes(next_one)
        assert became.count("done") == 1
        committed(lambda: Membership.objects.filter(user=guest.user, organization=owner.organization).delete())


def test_a_credential_s_new_name_is_taken_once(owner: Person) -> None:
    made = [committed(lambda: make_credential(owner, scopes=["clusters:read"])) for _ in range(4)]
    for number in range(5):
        waiting = iter(made * 5)

        def rename(number: int = number, waiting: Iterator[Any] = waiting) -> None:
            one = next(waiting)
            services.update_credential(actor=owner.actor, credential_id=one.credential.pk, name=f"same {number}")

        assert set(outcomes(rename)) == {"done", "name_taken"}
