"""A stand-in for an API server, for what a real one cannot be made to say: refusals, silence, a history that is gone.

It answers from a script, request by request, over a real connection.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from provisioning.backends.kubernetes.api import Api
from provisioning.backends.kubernetes.budget import Gate
from provisioning.backends.kubernetes.connection import connect
from provisioning.backends.kubernetes.settings import Budget

HANG_SECONDS = 30.0


@dataclass(frozen=True)
class Reply:
    """One answer. `lines` are sent one after the other without an end, `hangs` keeps the connection open after them."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    lines: tuple[dict[str, Any], ...] | None = None
    hangs: bool = False


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    authorization: str
    content_type: str
    body: bytes


class ScriptedServer(ThreadingHTTPServer):
    """Gives its replies in order, and the last one for ever; to a request with a known part, always the same."""

    daemon_threads = True

    def __init__(self, script: tuple[Reply, ...], known: Mapping[str, Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.known = list(script), known
        self.asked: list[Asked] = []
        self.is_over = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def next(self, path: str) -> Reply:
        always = [reply for part, reply in self.known.items() if part in path]
        if always:
            return always[0]
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.server.asked.append(
            Asked(
                self.command,
                self.path,
                self.headers.get("Authorization", ""),
                self.headers.get("Content-Type", ""),
                self.rfile.read(length),
            )
        )
        reply = self.server.next(self.path)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.lines is None:
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in reply.lines:
            event = json.dumps(line).encode() + b"\n"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.flush()
        if reply.hangs:
            self.server.is_over.wait(HANG_SECONDS)
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - the base class wants these names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def scripted(*script: Reply, known: Mapping[str, Reply] | None = None) -> Iterator[ScriptedServer]:
    """A server that answers from a script, or by a part of the path."""
    server = ScriptedServer(script, known or {})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.is_over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def kubeconfig(folder: Path, port: int, token: str = "first") -> Path:
    """Write how a server on this port is reached."""
    path = folder / "kubeconfig.yaml"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "only",
        "contexts": [{"name": "only", "context": {"cluster": "only", "user": "only"}}],
        "clusters": [{"name": "only", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "only", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def client_of(path: Path, gate: Gate | None = None) -> Api:
    """A client that reads its credentials from this file whenever it has to."""
    return Api(lambda: connect(path), gate or Gate(Budget()))
