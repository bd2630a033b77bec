"""A backup store for one machine: rclone serves a folder as S3, on 127.0.0.1 only, with a key of its own."""

from __future__ import annotations

import http.client
import os
import time
from typing import TYPE_CHECKING

from embedded.errors import SetupError
from embedded.files import write_whole
from embedded.keyring import secret_file
from embedded.processes import processes_inside, runs_inside, stop

if TYPE_CHECKING:
    from pathlib import Path

    from embedded.home import Home
    from embedded.parts import Parts

START_SECONDS = 30.0
REGION = "local"
BUCKET = "flowplane-backups"
ACCESS_KEY = "flowplane"
# The key comes in by the environment, where no list of processes shows it; an argument would be.
SERVE = 'RCLONE_AUTH_KEY="$(cat "$1")" exec "$2" serve s3 --config /dev/null --addr "$3" "$4"'
# A server that was killed leaves what it was writing, which is no object and yet keeps a folder that looks like one.
TIDY = 'find "$4" -mindepth 2 \\( -name ".rclone_temp_put_*" -type f -o -type d -empty \\) -delete'


def configure(home: Home) -> None:
    """Lay the key where the server's user can read it, and make the bucket: a folder is one."""
    secret = secret_file(home, "backup_s3_secret_key").read_text(encoding="utf-8")
    # rclone takes a list here, so a key with its comma needs quotes of its own.
    write_whole(_key_file(home), f'"{ACCESS_KEY},{secret}"', mode=0o400)
    _give(home, _key_file(home))
    for folder in (_data(home), _data(home) / BUCKET):
        folder.mkdir(mode=0o700, exist_ok=True)
        _give(home, folder)


def server_command(home: Home, parts: Parts, port: int) -> list[str]:
    """Return the argument list that serves in the foreground; SIGTERM stops it."""
    arguments = (_key_file(home), parts.rclone / "rclone", f"127.0.0.1:{port}", _data(home))
    # Its working folder is how a stray one is known.
    return ["/bin/sh", "-c", f'cd "$5" && {TIDY}; {SERVE}', "store", *map(str, arguments), str(home.store)]


def stop_strays(home: Home) -> None:
    """Stop a server that lost its owner."""
    stop(processes_inside(home.store), lambda process: runs_inside(process, home.store))


def wait_until_ready(home: Home, port: int, *, seconds: float = START_SECONDS) -> None:
    """Return when the server answers.

    Raises:
        SetupError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not _answers(port):
        if time.monotonic() > deadline:
            raise SetupError(f"The backup store did not start within {seconds:.0f} s; see {home.logs / 'store.log'}.")
        time.sleep(0.1)


def _answers(port: int) -> bool:
    """Ask without a key: a refusal is an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status in (http.client.BAD_REQUEST, http.client.FORBIDDEN)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _key_file(home: Home) -> Path:
    return home.store / "key"


def _data(home: Home) -> Path:
    return home.store / "data"


def _give(home: Home, path: Path) -> None:
    if home.account is not None:
        os.chown(path, home.account.uid, home.account.gid)
