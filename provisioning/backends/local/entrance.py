"""Lead a cluster's clients to its brokers: one address that survives any broker's death.

A program of its own (`python -I -S entrance.py ROUTES_FILE [USER]`), standard library only, copied into the cluster's
folder because our code may move. It passes bytes and looks into none: TLS begins at the client and ends in the broker.
For each connection the brokers are tried in turn, each time from another one on; one that refuses costs nothing.

The routes are a JSON file: `{"routes": [{"listen": 26500, "to": [26505, 26510]}]}`, all ports of this machine. It is
read again whenever it changes, so brokers come and go, and ports are opened, without a restart.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import resource
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
# What is read at once, and all that is held back of one direction: a slow reader slows its sender down, not us.
CHUNK_BYTES = 65536
BACKLOG = 1024
ACCEPTS_AT_ONCE = 64
TICK_SECONDS = 1.0
# A process that is stopped, or far too busy, neither accepts nor refuses.
CONNECT_SECONDS = 2.0
# Errors of accept that mean "later": no descriptors or no memory.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class End:
    """One side of a connection: what is to be written to it, and how far it is done."""

    __slots__ = ("has_ended", "held", "is_open", "is_shut", "socket", "watched")

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = line
        self.held = b""  # not written to it yet
        self.has_ended = False  # it will send no more
        self.is_shut = False  # we shall send it no more
        self.is_open = True
        self.watched = 0

    def write(self) -> None:
        """Send what is held, as much as it takes now."""
        while self.held:
            try:
                sent = self.socket.send(self.held)
            except BlockingIOError:
                return
            self.held = self.held[sent:]

    def close(self) -> None:
        self.is_open = False
        self.socket.close()


class Link:
    """A client and, once one has accepted, its broker."""

    __slots__ = ("broker", "client", "is_connected", "is_over", "until", "untried")

    def __init__(self, client: socket.socket, targets: list[int]) -> None:
        self.client = End(client)
        self.broker: End | None = None
        self.untried = targets
        self.is_connected = False
        self.is_over = False
        self.until = 0.0

    def other(self, end: End) -> End | None:
        return self.broker if end is self.client else self.client


class Route:
    """One port of ours and the brokers' ports behind it."""

    def __init__(self, port: int) -> None:
        self.targets: list[int] = []
        self.turn = 0
        self.socket = socket.create_server((LOOPBACK, port), backlog=BACKLOG)
        self.socket.setblocking(False)

    def order(self) -> list[int]:
        """The brokers in the order for the next client."""
        self.turn += 1
        start = self.turn % len(self.targets) if self.targets else 0
        return self.targets[start:] + self.targets[:start]


class Entrance:
    """The loop. One thread; a connection costs two descriptors and about two kilobytes while nothing is sent."""

    def __init__(self, routes_file: Path) -> None:
        self._file = routes_file
        self._seen: tuple[int, int] | None = None
        self._poll = select.epoll()
        self._routes: dict[int, Route] = {}  # by port
        self._listening: dict[int, Route] = {}  # by descriptor
        self._ends: dict[int, tuple[Link, End]] = {}
        self._connecting: deque[Link] = deque()

    def run(self) -> None:
        """Serve for ever."""
        tick_at = 0.0
        while True:
            now = time.monotonic()
            if now >= tick_at:
                self.refresh()
                tick_at = now + TICK_SECONDS
            self._give_up_slow(now)
            for descriptor, events in self._poll.poll(TICK_SECONDS):
                self._handle(descriptor, events)

    def refresh(self) -> None:
        """Read the routes again if they have changed; routes that cannot be read leave the old ones in force."""
        try:
            found = self._file.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp != self._seen:
                self._apply({int(one["listen"]): [int(port) for port in one["to"]] for one in self._read()})
                self._seen = stamp
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._listen()

    def _read(self) -> list[dict[str, Any]]:
        return list(json.loads(self._file.read_bytes())["routes"])

    def _apply(self, wanted: dict[int, list[int]]) -> None:
        for port in self._routes.keys() - wanted.keys():
            route = self._routes.pop(port)
            self._listening.pop(route.socket.fileno(), None)
            route.socket.close()
        for port, targets in wanted.items():
            if port not in self._routes:
                self._routes[port] = Route(port)
            self._routes[port].targets = targets

    def _listen(self) -> None:
        for route in self._routes.values():
            if route.socket.fileno() not in self._listening:
                self._listening[route.socket.fileno()] = route
                self._poll.register(route.socket, select.EPOLLIN)

    def _handle(self, descriptor: int, events: int) -> None:
        if descriptor in self._listening:
            self._accept(self._listening[descriptor])
        elif descriptor in self._ends:
            link, end = self._ends[descriptor]
            try:
                self._advance(link, end, events)
            except OSError:
                self._drop(link)

    def _accept(self, route: Route) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                client, _ = route.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    # Whoever waits in the backlog gets in at a later tick; asking again at once would only burn CPU.
                    self._poll.unregister(route.socket)
                    self._listening.pop(route.socket.fileno())
                return
            self._begin(client, route)

    def _begin(self, client: socket.socket, route: Route) -> None:
        self.refresh()
        try:
            link = Link(client, route.order())
        except OSError:  # it has hung up already
            client.close()
            return
        self._ends[client.fileno()] = (link, link.client)
        self._try_next(link)

    def _try_next(self, link: Link) -> None:
        """Go on to the next broker; without any left the client is sent away, and its library tries again."""
        self._part(link.broker)
        link.broker = None
        while link.untried:
            if (line := _begin_connecting(link.untried.pop(0))) is not None:
                link.broker = End(line)
                link.until = time.monotonic() + CONNECT_SECONDS
                self._ends[line.fileno()] = (link, link.broker)
                self._connecting.append(link)
                self._watch(link.broker, select.EPOLLOUT)
                return
        self._drop(link)

    def _give_up_slow(self, now: float) -> None:
        """Leave brokers that neither accept nor refuse. The queue is in the order of the deadlines.

        One that has accepted is not left, even if we were held up ourselves and have not been told of it yet.
        """
        while self._connecting and self._connecting[0].until <= now:
            link = self._connecting.popleft()
            if not link.is_connected and not link.is_over and not _has_accepted(link.broker):
                self._try_next(link)

    def _advance(self, link: Link, end: End, events: int) -> None:
        if not link.is_connected:
            if end is link.broker:
                self._finish_connecting(link)
            return
        if events & select.EPOLLERR:
            self._drop(link)
            return
        if events & select.EPOLLOUT:
            end.write()
        other = link.other(end)
        if other is not None and events & (select.EPOLLIN | select.EPOLLHUP) and not other.held and not end.has_ended:
            self._pass_on(end, other)
        self._settle(link)

    def _finish_connecting(self, link: Link) -> None:
        assert link.broker is not None
        if link.broker.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._try_next(link)
            return
        link.is_connected = True
        self._settle(link)

    @staticmethod
    def _pass_on(source: End, sink: End) -> None:
        try:
            read = source.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        if read:
            sink.held = read
            sink.write()
        else:
            source.has_ended = True

    def _settle(self, link: Link) -> None:
        """After any progress: pass on an end of sending, watch what can go on, and part with what is done."""
        assert link.broker is not None
        pair = (link.client, link.broker)
        for end, other in (pair, pair[::-1]):
            if other.has_ended and not end.held and not end.is_shut:
                end.is_shut = True
                end.socket.shutdown(socket.SHUT_WR)
        if all(end.has_ended and end.is_shut for end in pair):
            self._drop(link)
            return
        for end, other in (pair, pair[::-1]):
            wants = (select.EPOLLOUT if end.held else 0) | (0 if end.has_ended or other.held else select.EPOLLIN)
            self._watch(end, wants)

    def _watch(self, end: End, wants: int) -> None:
        """Watch for exactly this. What waits for nothing is not registered: its hang-up would be reported for ever."""
        if wants == end.watched:
            return
        if not wants:
            self._poll.unregister(end.socket)
        elif end.watched:
            self._poll.modify(end.socket, wants)
        else:
            self._poll.register(end.socket, wants)
        end.watched = wants

    def _part(self, end: End | None) -> None:
        if end is not None and end.is_open:
            self._watch(end, 0)
            self._ends.pop(end.socket.fileno(), None)
            end.close()

    def _drop(self, link: Link) -> None:
        link.is_over = True
        self._part(link.client)
        self._part(link.broker)


def _begin_connecting(port: int) -> socket.socket | None:
    """Return a line that is on its way to this port, None when it was refused at once."""
    try:
        line = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return None
    line.setblocking(False)
    if line.connect_ex((LOOPBACK, port)) in (0, errno.EINPROGRESS):
        return line
    line.close()
    return None


def _has_accepted(broker: End | None) -> bool:
    """Return whether the line to a broker stands. The kernel knows before it is asked for events."""
    try:
        return broker is not None and bool(broker.socket.getpeername())
    except OSError:
        return False


def allow_many_connections() -> None:
    """Take as many descriptors as we may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def become(user: str) -> None:
    """Drop privileges. Only now, because that user may not be let into the folder that our Python lies in."""
    account = pwd.getpwnam(user)
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def main() -> None:
    """Serve the routes that the first argument names, as the user that the second one does."""
    allow_many_connections()
    entrance = Entrance(Path(sys.argv[1]))
    entrance.refresh()
    if len(sys.argv) > 2:
        become(sys.argv[2])
    entrance.run()


if __name__ == "__main__":
    main()
