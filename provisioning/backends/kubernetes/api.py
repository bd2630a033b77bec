"""A region's API server: raw JSON over one pool of connections.

Every method is one request (a list: one for each page of objects), and raises `Temporary` or `Permanent` with a public
sentence. All that we ask may be asked twice, so a connection that was cut is tried once more.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from provisioning.backends.engine.door import Answer, Limits
from provisioning.backends.kubernetes.budget import Gate
from provisioning.backends.kubernetes.connection import Connection
from provisioning.backends.kubernetes.errors import TOO_MANY, UNAUTHORIZED, Changed, Expired, Missing, pause_in, refusal
from provisioning.backends.kubernetes.kinds import Kind, Object, name_in
from provisioning.backends.kubernetes.names import MANAGER
from provisioning.errors import RegionUnreachable

TIMEOUT = urllib3.Timeout(connect=2.0, read=8.0)
# Objects in a page of a list; what is without its content is a kilobyte or two.
PAGE = 500
METADATA_PAGE = 2000
# The server sends a bookmark about every minute; a watch without a sign of life for longer is a dead one.
SILENCE_SECONDS = 75.0
# What the server answers when it does not reach a pod, or there is none.
UNREACHED = frozenset({404, 500, 502, 503, 504})
METADATA_ONLY = "application/json;as=PartialObjectMetadata{list};g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list held, and from where a watch goes on."""

    items: tuple[Object, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Request:
    """One request to come; `what` names its object in a sentence."""

    method: str
    path: str
    what: str
    query: Mapping[str, str]
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"


# What the server says of an object that has the same name and is another one; of namespaces it says it otherwise.
_ANOTHER = re.compile("UID in (the )?precondition")


class Api:
    """One client of one region's API server; one per process, for any number of threads."""

    def __init__(self, connect: Callable[[], Connection], gate: Gate) -> None:
        self._connect = connect
        self._gate = gate
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._clock_skew_seconds = 0.0
        self.requests = 0

    @property
    def now(self) -> datetime:
        """The time as the region has it, by its last answer."""
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() + self._clock_skew_seconds, UTC)

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Return one object, None when it is not there."""
        try:
            return self._ask(Request("GET", kind.path(namespace, name), f"{kind.name} {name}", {}))
        except Missing:
            return None

    def find(
        self, kind: Kind, namespace: str = "", *, selector: str = "", fields: str = "", is_metadata_only: bool = False
    ) -> Listing:
        """Return all objects of a kind, of one namespace or of all."""
        items: list[Object] = []
        page_size = METADATA_PAGE if is_metadata_only else PAGE
        query = {"limit": str(page_size), "labelSelector": selector, "fieldSelector": fields}
        accept = METADATA_ONLY.format(list="List") if is_metadata_only else "application/json"
        while True:
            page = self._ask(Request("GET", kind.path(namespace), f"list of {kind.plural}", query, accept=accept))
            items += page.get("items") or ()
            about = page.get("metadata") or {}
            if not about.get("continue"):
                return Listing(tuple(items), str(about.get("resourceVersion", "")))
            query = {**query, "continue": str(about["continue"])}

    def create(self, kind: Kind, namespace: str, wished: Object) -> Object:
        """Make an object that must not be there yet; `Changed` when it is."""
        what = f"{kind.name} {name_in(wished)}"
        return self._ask(Request("POST", kind.path(namespace), what, {"fieldManager": MANAGER}, wished))

    def apply(self, kind: Kind, namespace: str, wished: Object) -> Object:
        """Make an object as it is wished, whoever else has set one of these fields; fields of others stay.

        With a `resourceVersion` in it, only while the object is of that version.
        """
        name = name_in(wished)
        query = {"fieldManager": MANAGER, "force": "true"}
        return self._ask(
            Request(
                "PATCH",
                kind.path(namespace, name),
                f"{kind.name} {name}",
                query,
                wished,
                content_type="application/apply-patch+yaml",
            )
        )

    def merge(self, kind: Kind, namespace: str, name: str, change: Object) -> Object:
        """Change some fields of an object that is there."""
        path, what = kind.path(namespace, name), f"{kind.name} {name}"
        query = {"fieldManager": MANAGER}
        return self._ask(Request("PATCH", path, what, query, change, content_type="application/merge-patch+json"))

    def edit(self, kind: Kind, namespace: str, name: str, operations: Sequence[Mapping[str, Any]]) -> Object:
        """Change an object by the operations of RFC 6902, all or none; `Invalid` when one does not apply to it."""
        path, what = kind.path(namespace, name), f"{kind.name} {name}"
        query = {"fieldManager": MANAGER}
        return self._ask(Request("PATCH", path, what, query, operations, content_type="application/json-patch+json"))

    def replace(self, kind: Kind, namespace: str, wished: Object) -> Object:
        """Make an object exactly this, fields of others gone, while it is of the version it names; else `Changed`."""
        path, what = kind.path(namespace, name_in(wished)), f"{kind.name} {name_in(wished)}"
        return self._ask(Request("PUT", path, what, {"fieldManager": MANAGER}, wished))

    def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str, version: str = "", in_order: bool = False
    ) -> None:
        """Begin to remove this very object; one that is gone, or another one by now, is success.

        Args:
            version: only while it is as it was read, for whoever goes by what is noted on it: who it belongs to.
            in_order: it stays until all that belongs to it is gone.

        Raises:
            Changed: it is of another version by now.
        """
        policy = "Foreground" if in_order else "Background"
        kind_of_body = {"kind": "DeleteOptions", "apiVersion": "v1"}
        preconditions = {"uid": uid, **({"resourceVersion": version} if version else {})}
        body = {**kind_of_body, "preconditions": preconditions, "propagationPolicy": policy}
        try:
            self._ask(Request("DELETE", kind.path(namespace, name), f"{kind.name} {name}", {}, body))
        except Missing:
            return
        except Changed as error:
            # The server compares the UID first, and says which of the two differs.
            if version and not _ANOTHER.search(error.internal):
                raise

    def watch(self, kind: Kind, selector: str, resource_version: str) -> Iterator[tuple[str, Object]]:
        """Yield (event, metadata) from a version on, bookmarks included, until the server ends it.

        Raises:
            Expired: the version is too old; list again.
            RegionUnreachable: no answer, or a silence longer than bookmarks allow.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": selector,
            "resourceVersion": resource_version,
            "timeoutSeconds": "600",
        }
        accept = METADATA_ONLY.format(list="")
        request = Request("GET", kind.path(), f"watch of {kind.plural}", query, accept=accept)
        self._gate.take_token()
        patience = urllib3.Timeout(connect=2.0, read=SILENCE_SECONDS)
        try:
            response = self._insist(request, patience, is_stream=True)
        except ReadTimeoutError as error:
            raise self._silence(error) from error
        with closing(response):
            if response.status >= 400:
                self._refuse(response, request)
            try:
                for line in _lines(response):
                    yield _to_event(json.loads(line))
            except (HTTPError, ValueError) as error:
                raise RegionUnreachable("The region's watch fell silent.", internal=repr(error)[:300]) from error

    def ask_pod(
        self, namespace: str, pod: str, port: int, method: str, path: str, body: Any, limits: Limits
    ) -> Answer | None:
        """Ask a program in a pod, through the API server; None when it does not answer."""
        place = f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path}"
        request = Request(method, place, "pod's answer", {}, body)
        timeout = urllib3.Timeout(connect=limits.connect, read=limits.read)
        with self._gate.passing():
            try:
                response = self._insist(request, timeout)
            except ReadTimeoutError:
                # The engine's silence, not the region's: the breaker is not for this.
                return None
        if response.status >= 400 and _is_the_servers(response):
            if response.status in UNREACHED:
                return None
            self._refuse(response, request)
        return Answer(response.status, response.data)

    def _ask(self, request: Request) -> Object:
        with self._gate.passing():
            response = self._say(request)
        if response.status >= 400:
            self._refuse(response, request)
        self._note_time(response.headers.get("Date"))
        try:
            return dict(response.json())
        except (ValueError, TypeError) as error:
            raise RegionUnreachable("The region's answer cannot be read.", internal=repr(error)[:300]) from error

    def _say(self, request: Request) -> urllib3.BaseHTTPResponse:
        try:
            return self._insist(request, TIMEOUT)
        except ReadTimeoutError as error:
            raise self._silence(error) from error

    def _insist(
        self, request: Request, timeout: urllib3.Timeout, *, is_stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        """Ask, and once more with fresh credentials when they are refused.

        Raises:
            ReadTimeoutError: the connection stands, and no answer came.
        """
        connection = self._current()
        response = self._send(request, connection, timeout, is_stream=is_stream)
        if response.status == UNAUTHORIZED and _is_the_servers(response):
            self._renew(connection)
            response = self._send(request, self._current(), timeout, is_stream=is_stream)
        return response

    def _send(
        self, request: Request, connection: Connection, timeout: urllib3.Timeout, *, is_stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        query = urlencode({name: value for name, value in request.query.items() if value})
        url = f"{connection.host}{request.path}{'?' if query else ''}{query}"
        headers = {"Accept": request.accept, **connection.headers()}
        body = None
        if request.body is not None:
            body, headers["Content-Type"] = json.dumps(request.body), request.content_type
        for is_last in (False, True):
            self.requests += 1
            try:
                response = connection.http.request(
                    request.method,
                    url,
                    body=body,
                    headers=headers,
                    timeout=timeout,
                    retries=False,
                    redirect=False,
                    preload_content=not is_stream,
                )
            except ProtocolError as error:
                # A connection that the server had closed meanwhile.
                if is_last:
                    raise self._silence(error) from error
            except ReadTimeoutError:
                raise
            except HTTPError as error:
                raise self._silence(error) from error
            else:
                self._gate.note_answer()
                return response
        raise AssertionError

    def _silence(self, error: HTTPError) -> RegionUnreachable:
        self._gate.note_silence()
        return RegionUnreachable("The region does not answer.", internal=repr(error)[:300])

    def _refuse(self, response: urllib3.BaseHTTPResponse, request: Request) -> None:
        if response.status == TOO_MANY or (response.status >= 500 and "Retry-After" in response.headers):
            self._gate.note_pause(pause_in(response.headers))
        raise refusal(response.status, response.data, response.headers, request.what)

    def _current(self) -> Connection:
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def _renew(self, refused: Connection) -> None:
        """Forget credentials that were refused, unless another thread has done so already."""
        with self._lock:
            if self._connection is refused:
                self._connection = None

    def _note_time(self, date: str | None) -> None:
        if date:
            told = parsedate_to_datetime(date).timestamp()
            # The header has whole seconds, so a difference below that says nothing.
            skew = told - datetime.now(UTC).timestamp()
            self._clock_skew_seconds = skew if abs(skew) > 1.5 else 0.0


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(65536, decode_content=True):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line)


def _to_event(event: Mapping[str, Any]) -> tuple[str, Object]:
    kind, found = str(event["type"]), event["object"]
    if kind == "ERROR":
        if found.get("code") == 410:
            raise Expired("The region's history is gone.", internal=str(found)[:300])
        raise RegionUnreachable("The region's watch ended.", internal=str(found)[:300])
    return kind, found


def _is_the_servers(response: urllib3.BaseHTTPResponse) -> bool:
    """Whether the API server itself speaks, and not a pod behind it: a broker's own 503 is an answer."""
    try:
        return bool(response.json().get("kind") == "Status")
    except (ValueError, AttributeError):
        # What the proxy says in plain words.
        return b"trying to reach service" in response.data or b"proxy error" in response.data
