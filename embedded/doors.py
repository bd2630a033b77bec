"""The product's doors as a person and a program use them: forms and REST over HTTP, nothing else."""

from __future__ import annotations

import re
import socket
import ssl
import time
from html import unescape
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import requests

from embedded.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_Seen = TypeVar("_Seen")

TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.5
CONNECT_SECONDS = 2.0
CONFIRMATION_LINK = re.compile(r"/accounts/confirm-email/[^/\s\"'<>]+/")


class Visitor:
    """One person's browser session, with cookies."""

    def __init__(self, public_url: str) -> None:
        self.public_url = public_url
        self._session = requests.Session()
        # The machine's proxies and CA bundles are for the outside world.
        self._session.trust_env = False
        # A kept connection may be closed by the server just as the next request is sent on it.
        self._session.headers["Connection"] = "close"

    def page(self, path: str) -> str:
        """Return a page's text.

        Raises:
            SetupError: the answer was not 200.
        """
        answer = self._session.get(f"{self.public_url}{path}", timeout=TIMEOUT_SECONDS)
        _require(answer, answer.status_code == requests.codes.ok)
        return answer.text

    def submit(self, path: str, **fields: str) -> bool:
        """Fill in a form and send it. True when it was accepted, False when the form came back with complaints."""
        self.page(path)
        data = {**fields, "csrfmiddlewaretoken": self._csrf_token}
        answer = self._session.post(
            f"{self.public_url}{path}", data=data, timeout=TIMEOUT_SECONDS, allow_redirects=False
        )
        _require(answer, answer.status_code < requests.codes.bad_request)
        return bool(answer.is_redirect)

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the REST interface with this session and return the decoded answer.

        Raises:
            SetupError: it refused; its sentence is passed on.
        """
        answer = self.request(method, path, body)
        _require(answer, answer.ok)
        return answer.json()

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> requests.Response:
        """Call the REST interface and return the raw answer."""
        return self._session.request(
            method,
            f"{self.public_url}/api/v1{path}",
            json=body,
            headers={"X-CSRFToken": self._csrf_token, **(headers or {})},
            timeout=TIMEOUT_SECONDS,
        )

    @property
    def is_signed_in(self) -> bool:
        return bool(self.request("GET", "/me").ok)

    @property
    def _csrf_token(self) -> str:
        return self._session.cookies.get("csrftoken") or ""


def confirmation_path(mailbox_page: str) -> str | None:
    """Find the newest confirmation link in a mailbox page; None when it is not there yet."""
    found = CONFIRMATION_LINK.search(unescape(mailbox_page))
    return urlsplit(found.group()).path if found else None


def is_served(address: str, ca_file: Path) -> bool:
    """Tell whether a server of this authority answers at `host:port`, and not somebody else's or nobody."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(ca_file))
    try:
        with (
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as line,
            context.wrap_socket(line, server_hostname=host),
        ):
            return True
    except OSError:
        return False


def wait_for(look: Callable[[], _Seen | None], *, seconds: float, what: str) -> _Seen:
    """Look again and again until there is something to return.

    Raises:
        SetupError: nothing came in time.
    """
    deadline = time.monotonic() + seconds
    while (seen := look()) is None:
        if time.monotonic() > deadline:
            raise SetupError(f"{what} did not come within {seconds:.0f} s.")
        time.sleep(POLL_SECONDS)
    return seen


def _require(answer: requests.Response, holds: bool) -> None:
    if holds:
        return
    asked = f"{answer.request.method} {urlsplit(answer.url).path}"
    if "json" in answer.headers.get("Content-Type", ""):
        problem = answer.json()
        said = problem.get("detail") or problem.get("title") or answer.text
        raise SetupError(f"{asked} answered {answer.status_code}: {said}")
    raise SetupError(f"{asked} answered {answer.status_code}; see logs/web.log.")
