"""Request ids and log lines: what happened can be found again, and says nothing that it should not."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any
from uuid import uuid4

import pytest

from config.observability import LineFormatter, request_id_var
from tests.conftest import WebClient


def record(message: str = "turn: start_engine", **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("provisioning.reconciler", logging.INFO, __file__, 1, message, None, None)
    made.__dict__.update(extra)
    return made


def test_a_line_names_what_it_is_about() -> None:
    cluster_id = uuid4()
    line = json.loads(LineFormatter(as_json=True).format(record(cluster_id=cluster_id, seconds=0.5)))
    assert line["message"] == "turn: start_engine"
    assert (line["cluster_id"], line["seconds"], line["level"]) == (str(cluster_id), "0.5", "info")
    text = LineFormatter(as_json=False).format(record(cluster_id=cluster_id))
    assert text.endswith(f"provisioning.reconciler: turn: start_engine  cluster_id={cluster_id}")


def test_a_line_carries_no_payload() -> None:
    line = LineFormatter(as_json=True).format(record(variables={"customer": "secret"}, payload="secret"))
    assert "secret" not in line


def test_a_message_cannot_pretend_to_be_two_json_lines() -> None:
    assert "\n" not in LineFormatter(as_json=True).format(record("one\ntwo"))


def test_a_line_inside_a_request_carries_its_id() -> None:
    token = request_id_var.set("abc")
    try:
        assert json.loads(LineFormatter(as_json=True).format(record()))["request_id"] == "abc"
    finally:
        request_id_var.reset(token)


def test_an_error_brings_its_traceback() -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        line = LineFormatter(as_json=False).format(record(exc_info=sys.exc_info()))
    assert "Traceback" in line
    assert "ZeroDivisionError" in line


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "is_kept"), [("abc123", True), ("a" * 65, False), ("a b", False), ("a\u00e9", False), ("", False)]
)
def test_a_plain_request_id_of_the_callers_is_kept(client: WebClient, given: str, is_kept: bool) -> None:
    answered = client.get("/healthz", headers={"X-Request-Id": given})["X-Request-Id"]
    assert (answered == given) is is_kept
    assert answered.isalnum()


@pytest.mark.django_db
def test_made_up_methods_share_one_series(client: WebClient) -> None:
    client.generic("BREW", "/healthz")
    text = client.get("/metrics").content.decode()
    assert "BREW" not in text
    assert 'method="other"' in text
