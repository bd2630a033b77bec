"""The command line, as a program meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from pyzeebe.errors import ZeebeError

from examples.order_fulfilment.connection import check_settings, explain
from examples.order_fulfilment.failures import SettingsInvalid
from examples.order_fulfilment.ledger import Fact
from examples.order_fulfilment.output import SENTENCES, to_sentence

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "ZEEBE_ADDRESS": "localhost:26500",
    "ZEEBE_CLIENT_ID": "id",
    "ZEEBE_CLIENT_SECRET": "secret",
    "ZEEBE_AUTHORIZATION_SERVER_URL": "https://localhost:8443/oauth/token",
    "ZEEBE_TOKEN_AUDIENCE": "cluster",
}


def run(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZEEBE_", "REQUESTS_", "GRPC_"))}
    command = [sys.executable, "-m", "examples.order_fulfilment", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=kept | environ, capture_output=True, text=True, timeout=60, check=False
    )


def make_error(code: grpc.StatusCode, details: str) -> ZeebeError:
    return ZeebeError(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, None))


def test_missing_settings_are_all_named_and_exit_two(tmp_path: Path) -> None:
    finished = run("--folder", str(tmp_path), "deploy", environ={"ZEEBE_ADDRESS": "localhost:26500"})

    (line,) = finished.stdout.splitlines()
    failure = json.loads(line)
    assert finished.returncode == 2
    assert (failure["event"], failure["code"]) == ("failed", "settings_invalid")
    assert all(name in failure["message"] for name in SETTINGS if name != "ZEEBE_ADDRESS")


def test_too_few_orders_exit_two_with_a_sentence() -> None:
    finished = run("run", "--count", "2", environ=SETTINGS)

    assert finished.returncode == 2
    assert "at least 3 orders" in finished.stderr


def test_an_address_with_a_scheme_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="host:port"):
        check_settings(SETTINGS | {"ZEEBE_ADDRESS": "https://localhost:26500"})


def test_a_certificate_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "ca.crt")

    with pytest.raises(SettingsInvalid, match=r"REQUESTS_CA_BUNDLE names the file .*ca\.crt"):
        check_settings(SETTINGS | {"REQUESTS_CA_BUNDLE": missing})


def test_complete_settings_are_accepted() -> None:
    check_settings(SETTINGS)


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "bad token", "ZEEBE_TOKEN_AUDIENCE"),
        (grpc.StatusCode.UNAVAILABLE, "Getting metadata from plugin failed with error: x", "ZEEBE_CLIENT_SECRET"),
        (grpc.StatusCode.UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
        (grpc.StatusCode.UNAVAILABLE, "connection refused", "Nobody answers at localhost:26500"),
        (grpc.StatusCode.INTERNAL, "broken", "INTERNAL: broken"),
    ],
)
def test_every_trouble_with_the_engine_says_what_to_check(code: grpc.StatusCode, details: str, expected: str) -> None:
    sentence = explain(make_error(code, details), SETTINGS)

    assert expected in sentence
    assert "secret" not in sentence.replace("ZEEBE_CLIENT_SECRET", "")


def test_every_fact_can_be_said_in_words() -> None:
    assert set(SENTENCES) == set(Fact)


def test_an_outcome_reads_as_a_sentence() -> None:
    fields = {"order_id": "o-1", "outcome": "refused", "reason": "out of stock", "payment_attempts": 2, "seconds": 1.25}

    assert to_sentence("outcome", fields) == "* o-1 refused (out of stock) after a retried payment, 1.2 s."
