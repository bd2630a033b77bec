"""The variables that every Flowplane process is started with: one source for the demo, the tests and a shell."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedded import certificates, store
from embedded.errors import SetupError
from embedded.keyring import SECRETS, secret_file
from embedded.setup import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedded.home import Home
    from embedded.parts import Parts

# What a process may do in the database follows from what it is for.
ROLES = {"owner": "flowplane_owner", "app": "flowplane_app", "system": "flowplane_system"}
# Settings of `python -m embedded` itself.
OWN = (
    "FLOWPLANE_HOME",
    "FLOWPLANE_CACHE",
    "FLOWPLANE_WEB_PORT",
    "FLOWPLANE_WEB_TLS_PORT",
    "FLOWPLANE_STORE_PORT",
)
# Names the Kubernetes that tests may use. Tests see it under the second name: the product refuses FLOWPLANE_ variables
# that it does not know, and this one is none of its business.
TEST_KUBECONFIG = "FLOWPLANE_TEST_KUBECONFIG"
TEST_KUBECONFIG_INSIDE = "TESTBED_KUBECONFIG"
# Settings of the product that a person may choose for the demo; all the others follow from the home.
CHOOSABLE = tuple(
    f"FLOWPLANE_{name}"
    for name in (
        "OFFERING",
        "CAMUNDA_LICENSE_KEY",
        "CAMUNDA_LICENSE_KEY_FILE",
        "ENGINE_PORTS",
        "ENGINE_MEMORY_MB",
        "UNDO_WINDOW_SECONDS",
        "TOKEN_LIFETIME_SECONDS",
        "MFA",
        "LOG_FORMAT",
        "METRICS_TOKEN",
        "METRICS_TOKEN_FILE",
    )
)
# libpq's variables would lead our processes to somebody else's server; Django's to somebody else's settings.
FOREIGN_PREFIXES = ("FLOWPLANE_", "PG", "DJANGO_")


@dataclass(frozen=True)
class Ports:
    """Where the web process and the backup store listen, on 127.0.0.1 only."""

    plain: int = 8080
    tls: int = 8443
    store: int = 8333

    @property
    def public_url(self) -> str:
        return f"http://localhost:{self.plain}"

    @property
    def api_url(self) -> str:
        return f"https://localhost:{self.tls}"


def chosen_ports(environ: Mapping[str, str] | None = None) -> Ports:
    """Return the ports that the environment chooses.

    Raises:
        SetupError: not a port that an ordinary user may open, or the same one twice.
    """
    environ = os.environ if environ is None else environ
    ports = Ports(
        _port(environ, "FLOWPLANE_WEB_PORT", Ports.plain),
        _port(environ, "FLOWPLANE_WEB_TLS_PORT", Ports.tls),
        _port(environ, "FLOWPLANE_STORE_PORT", Ports.store),
    )
    if len({ports.plain, ports.tls, ports.store}) < 3:
        raise SetupError(
            f"FLOWPLANE_WEB_PORT, FLOWPLANE_WEB_TLS_PORT and FLOWPLANE_STORE_PORT are {ports.plain}, {ports.tls} and "
            f"{ports.store}; they must differ."
        )
    return ports


def _port(environ: Mapping[str, str], variable: str, default: int) -> int:
    given = environ.get(variable) or str(default)
    if not given.isdecimal() or not 1024 <= int(given) <= 65535:
        raise SetupError(f"{variable} is {given!r}: give a port from 1024 to 65535.")
    return int(given)


def refuse_foreign_settings(environ: Mapping[str, str] | None = None, *, also: tuple[str, ...] = ()) -> None:
    """Stop at a FLOWPLANE_ variable that we would have to ignore; `also` may be set as well.

    Raises:
        SetupError: names it and those that may be set.
    """
    environ = os.environ if environ is None else environ
    known = {*OWN, *CHOOSABLE, *also}
    if unknown := sorted(name for name in environ if name.startswith("FLOWPLANE_") and name not in known):
        raise SetupError(
            f"{', '.join(unknown)}: the embedded mode makes this setting itself, or does not know it. Remove it from "
            f"the environment. These may be set: {', '.join(sorted(known))}."
        )


def chosen_settings(home: Home, ports: Ports, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the settings under which `python -m embedded` finds the same home again and makes the same choices."""
    environ = os.environ if environ is None else environ
    values = (str(home.root), str(home.cache), str(ports.plain), str(ports.tls), str(ports.store))
    chosen = {name: environ[name] for name in CHOOSABLE if environ.get(name)}
    return {**dict(zip(OWN, values, strict=True)), **chosen}


def base_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the machine's environment without what would redirect our processes; its proxies and CA bundles stay."""
    environ = os.environ if environ is None else environ
    kept = {name: value for name, value in environ.items() if not name.startswith(FOREIGN_PREFIXES)}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def environment(
    home: Home, parts: Parts, role: str, *, ports: Ports | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the whole environment of a process with this database role (`owner`, `app` or `system`).

    Secrets are named by file, so that no process list shows them.
    """
    environ = os.environ if environ is None else environ
    ports = ports or chosen_ports(environ)
    return {
        **base_environment(environ),
        **_common(ports),
        **{name: environ[name] for name in CHOOSABLE if environ.get(name)},
        **{f"FLOWPLANE_{name.upper()}_FILE": str(secret_file(home, name)) for name in SECRETS},
        "FLOWPLANE_DATABASE_URL": f"postgresql://{ROLES[role]}@/flowplane?host={home.postgres}",
        "FLOWPLANE_POSTGRES_BIN": str(parts.postgres / "bin"),
        "FLOWPLANE_BROKER_URL": f"redis+socket://{home.broker_socket}",
        "FLOWPLANE_EMAIL_URL": f"mailbox://{home.mailbox}",
        "FLOWPLANE_HOME": str(home.region),
        "FLOWPLANE_CACHE": str(home.cache),
        "FLOWPLANE_JAVA_HOME": str(parts.java),
        "FLOWPLANE_CA_CERT_FILE": str(home.certificate),
        "FLOWPLANE_CA_KEY_FILE": str(certificates.authority_key_file(home)),
        **({"FLOWPLANE_ENGINE_USER": home.account.name} if home.account else {}),
    }


def detached_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return settings that load and lead nowhere, for checks that need no server (types, missing migrations)."""
    nowhere = Path("/nonexistent")
    return {
        **base_environment(environ),
        **_common(Ports()),
        **{f"FLOWPLANE_{name.upper()}": make() for name, make in SECRETS.items()},
        "FLOWPLANE_DATABASE_URL": f"postgresql://{ROLES['owner']}@/flowplane?host={nowhere}",
        "FLOWPLANE_BROKER_URL": f"redis+socket://{nowhere}/redis.sock",
        "FLOWPLANE_EMAIL_URL": f"mailbox://{nowhere}",
        "FLOWPLANE_HOME": str(nowhere),
        "FLOWPLANE_CACHE": str(nowhere),
        "FLOWPLANE_JAVA_HOME": str(nowhere),
        "FLOWPLANE_CA_CERT_FILE": str(nowhere / "ca.pem"),
        "FLOWPLANE_CA_KEY_FILE": str(nowhere / "ca.key"),
    }


def _common(ports: Ports) -> dict[str, str]:
    return {
        "FLOWPLANE_PUBLIC_URL": ports.public_url,
        "FLOWPLANE_API_URL": ports.api_url,
        "FLOWPLANE_ALLOWED_HOSTS": "localhost,127.0.0.1",
        "FLOWPLANE_EMAIL_FROM": "flowplane@localhost",
        "FLOWPLANE_FRONTEND_DIR": str(CHECKOUT),
        "FLOWPLANE_OFFERING": "internal",
        "FLOWPLANE_BACKUP_S3_ENDPOINT": f"http://127.0.0.1:{ports.store}",
        "FLOWPLANE_BACKUP_S3_REGION": store.REGION,
        "FLOWPLANE_BACKUP_S3_BUCKET": store.BUCKET,
        "FLOWPLANE_BACKUP_S3_ACCESS_KEY": store.ACCESS_KEY,
    }
