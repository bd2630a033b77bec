"""What the next release writes while it is rolled out is shown by this one, in words that it has never heard of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db.models.functions import Now
from rest_framework.test import APIClient

from provisioning import reconciler, selectors, services
from provisioning.models import Cluster, Operation
from provisioning.states import OperationKind, OperationState, StepKind, StepState, StoredWord
from provisioning.verdicts import Verdict
from tests.conftest import WebClient
from tests.factories import Person
from tests.provisioning.conftest import ask
from tests.provisioning.pretend import PretendRegion

pytestmark = pytest.mark.django_db


@pytest.fixture
def operation(alice: Person, region: PretendRegion) -> Operation:
    """An operation under way as the next release might have made it, with one step done and one at work."""
    operation = services.create_cluster(actor=alice.actor, request=ask())
    reconciler.turn(operation.cluster_id)
    Operation.objects.filter(pk=operation.pk).update(kind="teleport")
    times = {"started_at": operation.created_at, "finished_at": Now()}
    operation.steps.filter(position=1).update(kind="pack_up", state=StepState.DONE, **times)
    operation.steps.filter(position=2).update(kind="beam_over", state=StepState.RUNNING, started_at=Now())
    return operation


@pytest.mark.parametrize("words", [OperationKind, StepKind])
def test_a_later_word_is_itself_and_no_member(words: type[StoredWord]) -> None:
    word = words("teleport")
    assert (word, str(word), word.value, word.name) == ("teleport", "teleport", "teleport", "TELEPORT")
    assert word not in list(words)
    assert words(next(iter(words)).value) is next(iter(words))
    with pytest.raises(ValueError, match="7 is not a valid"):
        words(7)  # type: ignore[arg-type]


def test_programs_and_people_are_shown_an_operation_of_a_later_kind(
    alice: Person, operation: Operation, api: Callable[[Person], APIClient], browser: Callable[[Person], WebClient]
) -> None:
    program, person = api(alice), browser(alice)
    (listed,) = program.get("/api/v1/operations").json()["items"]
    shown = program.get(f"/api/v1/operations/{operation.pk}").json()
    for answer in (listed, shown):
        assert answer["kind"] == "teleport"
    assert [step["title"] for step in shown["steps"][:2]] == ["Pack up", "Beam over"]
    for address in ("/api/v1/clusters", f"/api/v1/clusters/{operation.cluster_id}"):
        assert program.get(address).status_code == 200
    pages = ("/operations", f"/operations/{operation.pk}", "/clusters", f"/clusters/{operation.cluster_id}")
    for page in pages:
        assert person.get(page).status_code == 200, page


def test_a_later_kind_of_step_is_judged_without_a_pace_and_called_off_by_nobody(
    alice: Person, operation: Operation
) -> None:
    view = selectors.operation(alice.actor, operation.pk)
    assert view.verdict is Verdict.PROGRESSING
    assert not view.can_cancel


def test_a_turn_for_it_is_taken_all_the_same(operation: Operation) -> None:
    Cluster.objects.filter(pk=operation.cluster_id).update(due_at=operation.created_at)
    reconciler.reconcile(operation.cluster_id)
    operation.refresh_from_db()
    assert operation.state in (OperationState.RUNNING, OperationState.SUCCEEDED)
