"""The same request from a hundred connections at once: one of them does it, and all are answered alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from provisioning.models import Cluster, Region
from tenants.models import IdempotencyRecord
from tests.factories import Person, unique
from tests.provisioning.api.conftest import CLUSTERS, wish

pytestmark = pytest.mark.usefixtures("slow_to_connect")

AT_ONCE = 100


def at_once(request: Callable[[], Any]) -> list[Any]:
    """Every thread's answer; each has a connection of its own, as the web process's threads do."""
    answers: list[Any] = []
    gate = threading.Barrier(AT_ONCE)

    def run() -> None:
        try:
            gate.wait(timeout=120)
            answers.append(request())
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == AT_ONCE
    return answers


def headers_of(person: Person, key: str) -> dict[str, str]:
    return {"X-Organization": str(person.organization.pk), "Idempotency-Key": key}


def test_a_key_used_a_hundred_times_at_once_makes_one_cluster(committed: Person) -> None:
    region = Region.objects.get(slug="local")
    signed_in = Client()
    signed_in.force_login(committed.user)
    cookie = signed_in.cookies["sessionid"].value
    body, headers = wish(name=unique("race"), region=region.pk), headers_of(committed, unique("key"))

    def send() -> Any:
        client = Client()
        client.cookies["sessionid"] = cookie
        return client.post(CLUSTERS, body, content_type="application/json", headers=headers)

    answers = at_once(send)
    assert {answer.status_code for answer in answers} == {202}, [answer.content for answer in answers]
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotent-Replay" not in answer for answer in answers) == 1
    assert Cluster.objects.filter(organization=committed.organization).count() == 1
    assert IdempotencyRecord.objects.filter(organization=committed.organization).count() == 1
