"""A way to a real API server on which a test decides what happens: real sockets, real objects, scripted trouble.

Whatever no trouble is planned for is passed on as it came, and what the server says comes back as it said it.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

HANG_SECONDS = 120.0
HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "host", "accept-encoding"})


@dataclass(frozen=True)
class Asked:
    """One request as it came, and when."""

    method: str
    path: str
    body: bytes
    at: float

    @property
    def is_watch(self) -> bool:
        return "watch=true" in self.path

    @property
    def is_write(self) -> bool:
        return self.method != "GET"

    def concerns(self, plural: str) -> bool:
        """Whether it is about objects of a kind."""
        return plural in urlsplit(self.path).path.split("/")


@dataclass(frozen=True)
class Said:
    """One answer of the server's."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Event = dict[str, Any]
Deed = Callable[["Passage"], None]


@dataclass
class Trouble:
    """What becomes of the requests it is for.

    Attributes:
        times: of how many; None: of all while it is planned.
        met: those it has met.
    """

    is_for: Callable[[Asked], bool]
    deed: Deed
    times: int | None = None
    met: list[Asked] = field(default_factory=list)

    def takes(self, asked: Asked) -> bool:
        return (self.times is None or len(self.met) < self.times) and self.is_for(asked)


class Proxy(ThreadingHTTPServer):
    """Stands before one API server; for one test."""

    daemon_threads = True
    # Reflectors, turns and tests together open some forty connections at once.
    request_queue_size = 128

    def __init__(self, upstream: Path) -> None:
        super().__init__(("127.0.0.1", 0), Passage)
        content = yaml.safe_load(upstream.read_text())
        cluster = content["clusters"][0]["cluster"]
        self.host = urlsplit(cluster["server"]).netloc
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.trust = ssl.create_default_context(cadata=authority)
        self.asked: list[Asked] = []
        self.is_over = threading.Event()
        self.passages: set[Passage] = set()
        self._lock = threading.Lock()
        self._troubles: list[Trouble] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @contextmanager
    def trouble(
        self, deed: Deed, is_for: Callable[[Asked], bool] = lambda _: True, *, times: int | None = None
    ) -> Iterator[Trouble]:
        """Plan trouble for as long as the block lasts."""
        planned = Trouble(is_for, deed, times)
        with self._lock:
            self._troubles.append(planned)
        try:
            yield planned
        finally:
            with self._lock:
                self._troubles.remove(planned)

    @contextmanager
    def away(self) -> Iterator[Trouble]:
        """Nobody comes through for as long as the block lasts: new requests are cut off, and so is what is open."""
        with self.trouble(cut) as met:
            for passage in tuple(self.passages):
                passage.cut()
            yield met

    def note(self, asked: Asked) -> Deed:
        """Remember a request and say what becomes of it."""
        with self._lock:
            self.asked.append(asked)
            for trouble in self._troubles:
                if trouble.takes(asked):
                    trouble.met.append(asked)
                    return trouble.deed
        return pass_on


class Passage(BaseHTTPRequestHandler):
    """One connection of a client's."""

    protocol_version = "HTTP/1.1"
    server: Proxy
    asked: Asked

    def setup(self) -> None:
        """Take note of the connection."""
        super().setup()
        self.server.passages.add(self)

    def finish(self) -> None:
        """Forget it, flushed unless its client has gone."""
        self.server.passages.discard(self)
        with suppress(OSError):
            super().finish()

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked = Asked(self.command, self.path, body, time.monotonic())
        try:
            self.server.note(self.asked)(self)
        except (OSError, http.client.HTTPException):
            # The client has gone, or the server behind us: either way this connection is over.
            self.close_connection = True

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _take  # noqa: N815 - the base class wants these names

    @contextmanager
    def upstream(self) -> Iterator[http.client.HTTPResponse]:
        """Ask the server, and hold its answer open."""
        connection = http.client.HTTPSConnection(self.server.host, timeout=HANG_SECONDS, context=self.server.trust)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        try:
            connection.request(self.asked.method, self.asked.path, self.asked.body or None, headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def fetch(self) -> Said:
        """Ask the server for a whole answer."""
        with self.upstream() as response:
            return Said(response.status, dict(response.getheaders()), response.read())

    def say(self, said: Said) -> None:
        """Give the client a whole answer."""
        self.send_response(said.status)
        for name, value in said.headers.items():
            if name.lower() not in {*HOP_BY_HOP, "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(said.body)))
        self.end_headers()
        self.wfile.write(said.body)

    def stream(self, sift: Callable[[Iterable[Event]], Iterable[Event]]) -> None:
        """Give the client a watch's events as they come, as `sift` lets them through."""
        with self.upstream() as response:
            if response.status >= 400:
                self.say(Said(response.status, dict(response.getheaders()), response.read()))
                return
            self.send_response(response.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            for event in sift(json.loads(line) for line in response if line.strip()):
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    def cut(self) -> None:
        """End the connection without a word."""
        self.close_connection = True
        with suppress(OSError):  # the client was quicker
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


# --- what can become of a request -------------------------------------------------------------------------------------


def pass_on(passage: Passage) -> None:
    """Nothing special."""
    if passage.asked.is_watch:
        passage.stream(iter)
    else:
        passage.say(passage.fetch())


def late(seconds: float) -> Deed:
    """Passed on, but late."""

    def deed(passage: Passage) -> None:
        passage.server.is_over.wait(seconds)
        pass_on(passage)

    return deed


def refuse(status: int, reason: str = "", **headers: str) -> Deed:
    """Refused; the server hears nothing of it."""
    status_object = {"kind": "Status", "apiVersion": "v1", "code": status, "reason": reason, "message": reason}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda passage: passage.say(Said(status, named, json.dumps(status_object).encode()))


def lose_answer(passage: Passage) -> None:
    """The server does it, and nobody hears that it has."""
    passage.fetch()
    passage.cut()


def hang(passage: Passage) -> None:
    """Taken in, and never answered."""
    passage.server.is_over.wait(HANG_SECONDS)
    passage.cut()


def cut(passage: Passage) -> None:
    """Not even taken in."""
    passage.cut()


def mute(passage: Passage) -> None:
    """A watch whose socket stays open, and on which nothing comes."""
    passage.stream(lambda _: _nothing(passage.server.is_over))


def sift(change: Callable[[Iterable[Event]], Iterable[Event]]) -> Deed:
    """A watch whose events come as this lets them through."""
    return lambda passage: passage.stream(change)


def remember(said: dict[str, Said]) -> Deed:
    """Passed on, and what the server says is kept."""

    def deed(passage: Passage) -> None:
        said[passage.asked.path] = passage.fetch()
        passage.say(said[passage.asked.path])

    return deed


def say_again(said: Mapping[str, Said]) -> Deed:
    """What the server said to the same question before; what it was not asked then is passed on."""

    def deed(passage: Passage) -> None:
        old = said.get(passage.asked.path)
        if old is None:
            pass_on(passage)
        else:
            passage.say(old)

    return deed


def _nothing(is_over: threading.Event) -> Iterator[Event]:
    is_over.wait(HANG_SECONDS)
    yield from ()


# --- a proxy for a test -----------------------------------------------------------------------------------------------


@contextmanager
def proxied(upstream: Path) -> Iterator[Proxy]:
    """A proxy before the server that this kubeconfig names."""
    proxy = Proxy(upstream)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.is_over.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def through(proxy: Proxy, upstream: Path, path: Path) -> Path:
    """Write how the server is reached through the proxy, with the credentials of this kubeconfig."""
    content = yaml.safe_load(upstream.read_text())
    content["clusters"] = [
        {"name": one["name"], "cluster": {"server": f"http://127.0.0.1:{proxy.port}"}} for one in content["clusters"]
    ]
    path.write_text(yaml.safe_dump(content))
    return path
