"""Redis for one machine: a unix socket, no port, nothing kept on disk."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from embedded.errors import SetupError
from embedded.files import write_whole
from embedded.processes import processes_inside, runs_inside, stop

if TYPE_CHECKING:
    from embedded.home import Home
    from embedded.parts import Parts

START_SECONDS = 30.0

# Wake-ups are hints, so losing them with the process is harmless; filling the memory is not.
CONFIGURATION = """\
# Written by `python -m embedded` at every start: change embedded/broker.py, not this file.
port 0
unixsocket "{socket}"
unixsocketperm 700
dir "{folder}"
save ""
appendonly no
maxmemory 64mb
maxmemory-policy noeviction
databases 1
"""


def configure(home: Home) -> None:
    """Write the server's settings; a socket that a killed server left behind is replaced by the server itself."""
    text = CONFIGURATION.format(socket=home.broker_socket, folder=home.redis)
    write_whole(home.redis / "redis.conf", text)


def server_command(home: Home, parts: Parts) -> list[str]:
    """Return the argument list that serves in the foreground; SIGTERM stops it."""
    return [str(parts.redis / "redis-server"), str(home.redis / "redis.conf")]


def stop_strays(home: Home) -> None:
    """Stop a server that lost its owner."""
    stop(processes_inside(home.redis), lambda process: runs_inside(process, home.redis))


def wait_until_ready(home: Home, *, seconds: float = START_SECONDS) -> None:
    """Return when the server answers.

    Raises:
        SetupError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not _answers(home):
        if time.monotonic() > deadline:
            raise SetupError(f"Redis did not start within {seconds:.0f} s; see {home.logs / 'redis.log'}.")
        time.sleep(0.1)


def _answers(home: Home) -> bool:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        try:
            line.connect(str(home.broker_socket))
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
        except OSError:
            return False
