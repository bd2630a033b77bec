"""One gRPC channel to the engine, from the variables that every Zeebe client reads."""

import os
from collections.abc import Mapping

import grpc
from pyzeebe import create_oauth2_client_credentials_channel
from pyzeebe.errors import ZeebeError

from examples.order_fulfilment.failures import SettingsInvalid

REQUIRED_VARIABLES = (
    "ZEEBE_ADDRESS",
    "ZEEBE_CLIENT_ID",
    "ZEEBE_CLIENT_SECRET",
    "ZEEBE_AUTHORIZATION_SERVER_URL",
    "ZEEBE_TOKEN_AUDIENCE",
)
# Optional, read by gRPC and by requests themselves; needed when the certificates come from a private authority.
AUTHORITY_VARIABLES = ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "REQUESTS_CA_BUNDLE")


def connect(environ: Mapping[str, str] = os.environ) -> grpc.aio.Channel:
    """Open a channel that asks for its own tokens. No traffic yet: the first call connects.

    Needs a running event loop. Raises SettingsInvalid.
    """
    check_settings(environ)
    # Named one by one, because pyzeebe would let a forgotten CAMUNDA_* variable win over its ZEEBE_* twin.
    return create_oauth2_client_credentials_channel(
        grpc_address=environ["ZEEBE_ADDRESS"],
        client_id=environ["ZEEBE_CLIENT_ID"],
        client_secret=environ["ZEEBE_CLIENT_SECRET"],
        authorization_server=environ["ZEEBE_AUTHORIZATION_SERVER_URL"],
        audience=environ["ZEEBE_TOKEN_AUDIENCE"],
    )


def check_settings(environ: Mapping[str, str]) -> None:
    """Refuse settings that could only fail later, in a less readable way. Raises SettingsInvalid."""
    missing = [name for name in REQUIRED_VARIABLES if not environ.get(name)]
    if missing:
        raise SettingsInvalid(
            f"Not set: {', '.join(missing)}. Load the env file of your client credentials first: `source FILE`."
        )
    if "://" in environ["ZEEBE_ADDRESS"]:
        raise SettingsInvalid("ZEEBE_ADDRESS must be host:port, without a scheme such as https://.")
    for name in AUTHORITY_VARIABLES:
        path = environ.get(name)
        if path and not os.access(path, os.R_OK):
            raise SettingsInvalid(f"{name} names the file {path}, which cannot be read.")


def is_refusal(error: ZeebeError) -> bool:
    """Whether the engine does not accept our token."""
    return error.grpc_error.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


def explain(error: ZeebeError, environ: Mapping[str, str] = os.environ) -> str:
    """Say in a sentence or two what went wrong between us and the engine, and what to check."""
    address, token_url = environ["ZEEBE_ADDRESS"], environ["ZEEBE_AUTHORIZATION_SERVER_URL"]
    code, details = error.grpc_error.code(), error.grpc_error.details() or "no details"
    if is_refusal(error):
        return (
            f"The engine at {address} refuses our token. Either ZEEBE_TOKEN_AUDIENCE is another cluster's, "
            "or access was revoked; then load the env file of new credentials."
        )
    if "metadata from plugin failed" in details:
        return (
            f"No token from {token_url}: {details}. Check ZEEBE_AUTHORIZATION_SERVER_URL, ZEEBE_CLIENT_ID and "
            "ZEEBE_CLIENT_SECRET, and REQUESTS_CA_BUNDLE if the certificate is not trusted."
        )
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            f"The certificate of the engine at {address} is not trusted. "
            "Set GRPC_DEFAULT_SSL_ROOTS_FILE_PATH to the file of the authority that signed it."
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"Nobody answers at {address}: {details}. Check that the cluster runs and that ZEEBE_ADDRESS is its own."
    return f"The engine at {address} answered {code.name}: {details}."
