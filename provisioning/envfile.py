"""What a stock client needs to reach an engine, as environment variables. Pure.

The names are those that Camunda's own clients, pyzeebe and zbctl read; nothing but these variables is needed, and no
switch that turns a check off.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from provisioning.spec import Endpoint

# Stands for what only its owner knows; replaced by hand.
CLIENT_ID_PLACEHOLDER = "<your client id>"
SECRET_PLACEHOLDER = "<your client secret>"  # noqa: S105 - not one


@dataclass(frozen=True, slots=True)
class Access:
    """One client's way to one engine; id and secret are empty where they are not known."""

    cluster_id: UUID
    region: str
    endpoint: Endpoint
    token_url: str
    ca_file: str
    client_id: str = ""
    client_secret: str = ""


def variables(access: Access) -> dict[str, str]:
    """Name -> value, in the order a reader would look for them."""
    return {
        "ZEEBE_ADDRESS": access.endpoint.grpc,
        "ZEEBE_GRPC_ADDRESS": f"grpcs://{access.endpoint.grpc}",
        **({"ZEEBE_REST_ADDRESS": access.endpoint.rest} if access.endpoint.rest else {}),
        "ZEEBE_CLIENT_ID": access.client_id or CLIENT_ID_PLACEHOLDER,
        "ZEEBE_CLIENT_SECRET": access.client_secret or SECRET_PLACEHOLDER,
        "ZEEBE_AUTHORIZATION_SERVER_URL": access.token_url,
        "ZEEBE_TOKEN_AUDIENCE": str(access.cluster_id),
        "CAMUNDA_CLUSTER_ID": str(access.cluster_id),
        "CAMUNDA_CLUSTER_REGION": access.region,
        "CAMUNDA_CREDENTIALS_SCOPES": "Zeebe",
        "CAMUNDA_OAUTH_URL": access.token_url,
        "CAMUNDA_AUTH_STRATEGY": "OAUTH",
        # One file, four names: zbctl and Java clients, gRPC's core, requests, and Go's or OpenSSL's defaults.
        "ZEEBE_CA_CERTIFICATE_PATH": access.ca_file,
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": access.ca_file,
        "REQUESTS_CA_BUNDLE": access.ca_file,
        "SSL_CERT_FILE": access.ca_file,
    }


def render(values: Mapping[str, str]) -> str:
    """The variables as a file for `source` in any POSIX shell; every value is quoted."""
    lines = [f"export {name}={_quoted(value)}" for name, value in values.items()]
    if values.get("ZEEBE_CLIENT_SECRET") == SECRET_PLACEHOLDER:
        lines.insert(0, "# The secret was shown once, when it was made: put it in place of the placeholder below.")
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """In single quotes, whatever is inside."""
    quoted = shlex.quote(value)
    return quoted if quoted.startswith("'") else f"'{value}'"
