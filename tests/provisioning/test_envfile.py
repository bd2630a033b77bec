"""The variables of a stock client: the names it reads, quoted for any shell."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.envfile import SECRET_PLACEHOLDER, Access, render, variables
from provisioning.spec import Endpoint

ACCESS = Access(
    cluster_id=UUID(int=7),
    region="local",
    endpoint=Endpoint("engine.example:26500", "https://engine.example:26501"),
    token_url="https://api.example/oauth/token",
    ca_file="/etc/flowplane/ca.crt",
    client_id="fpc_1",
    client_secret="fps_1",
)


def test_every_name_that_a_stock_client_reads_is_there() -> None:
    assert variables(ACCESS) == {
        "ZEEBE_ADDRESS": "engine.example:26500",
        "ZEEBE_GRPC_ADDRESS": "grpcs://engine.example:26500",
        "ZEEBE_REST_ADDRESS": "https://engine.example:26501",
        "ZEEBE_CLIENT_ID": "fpc_1",
        "ZEEBE_CLIENT_SECRET": "fps_1",
        "ZEEBE_AUTHORIZATION_SERVER_URL": "https://api.example/oauth/token",
        "ZEEBE_TOKEN_AUDIENCE": str(UUID(int=7)),
        "CAMUNDA_CLUSTER_ID": str(UUID(int=7)),
        "CAMUNDA_CLUSTER_REGION": "local",
        "CAMUNDA_CREDENTIALS_SCOPES": "Zeebe",
        "CAMUNDA_OAUTH_URL": "https://api.example/oauth/token",
        "CAMUNDA_AUTH_STRATEGY": "OAUTH",
        "ZEEBE_CA_CERTIFICATE_PATH": "/etc/flowplane/ca.crt",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": "/etc/flowplane/ca.crt",
        "REQUESTS_CA_BUNDLE": "/etc/flowplane/ca.crt",
        "SSL_CERT_FILE": "/etc/flowplane/ca.crt",
    }


def test_a_release_without_rest_has_no_rest_address() -> None:
    assert "ZEEBE_REST_ADDRESS" not in variables(replace(ACCESS, endpoint=Endpoint("engine.example:26500")))


def test_a_file_without_the_secret_says_what_to_do() -> None:
    text = render(variables(replace(ACCESS, client_secret="")))
    assert text.startswith("# The secret was shown once")
    assert f"export ZEEBE_CLIENT_SECRET='{SECRET_PLACEHOLDER}'\n" in text


def test_each_line_exports_a_quoted_value() -> None:
    lines = render(variables(ACCESS)).splitlines()
    assert lines[0] == "export ZEEBE_ADDRESS='engine.example:26500'"
    assert all(line.startswith("export ") and line.endswith("'") for line in lines)


@pytest.mark.parametrize("value", ["it's", "$(touch /tmp/x)", "a\nb", "`id`", "\\", "''", '"'])
def test_a_shell_reads_back_just_what_was_written(value: str) -> None:
    script = render({"ODD": value}) + 'printf %s "$ODD"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == value


@given(st.text(st.characters(exclude_characters="'", codec="utf-8")))
def test_without_an_apostrophe_a_value_stands_in_the_quotes_as_it_is(value: str) -> None:
    assert render({"NAME": value}) == f"export NAME='{value}'\n"
