from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import pytest
from minio import Minio
from minio.error import MinioException

from embedded import store
from embedded.keyring import secret_file
from embedded.processes import Process, processes_inside

if TYPE_CHECKING:
    from embedded.testbench import Testbench


def client(bench: Testbench, secret: str | None = None) -> Minio:
    key = secret or secret_file(bench.home, "backup_s3_secret_key").read_text()
    return Minio(f"127.0.0.1:{bench.store_port}", store.ACCESS_KEY, key, secure=False, region=store.REGION)


def test_the_store_keeps_what_it_is_given_over_a_restart(bench: Testbench) -> None:
    bench.start_store()
    client(bench).put_object(store.BUCKET, "a/b", io.BytesIO(b"kept"), 4)
    store.stop_strays(bench.home)
    assert not processes_inside(bench.home.store)
    bench.start_store()
    assert client(bench).get_object(store.BUCKET, "a/b").data == b"kept"


def test_what_a_killed_server_was_writing_is_no_object(bench: Testbench) -> None:
    bench.start_store()
    client(bench).put_object(store.BUCKET, "whole/a", io.BytesIO(b"kept"), 4)
    client(bench).put_object(store.BUCKET, "torn/1", io.BytesIO(b"half"), 4)
    whole = bench.home.store / "data" / store.BUCKET / "torn" / "1"
    whole.rename(whole.with_name(".rclone_temp_put_1"))
    store.stop_strays(bench.home)
    bench.start_store()
    found = {one.object_name for one in client(bench).list_objects(store.BUCKET)}
    assert "whole/" in found
    assert "torn/" not in found


def test_the_store_refuses_another_key_and_shows_its_own_to_nobody(bench: Testbench) -> None:
    bench.start_store()
    secret = secret_file(bench.home, "backup_s3_secret_key").read_text()
    with pytest.raises(MinioException, match="Response code: 403"):
        list(client(bench, "wrong" * 8).list_objects(store.BUCKET))
    commands = [" ".join(process.command) for process in processes_inside(bench.home.store)]
    assert len(commands) == 1
    assert secret not in commands[0]


def test_the_store_listens_on_loopback_only(bench: Testbench) -> None:
    bench.start_store()
    (server,) = processes_inside(bench.home.store)
    assert listening(server) == {f"0100007F:{bench.store_port:04X}"}


def listening(process: Process) -> set[str]:
    """Addresses of a process's TCP sockets in state 0A, as the kernel writes them."""
    held = set()
    for path in (process.folder / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            held.add(str(path.readlink()))
    lines = [
        line.split() for table in ("tcp", "tcp6") for line in (process.folder / "net" / table).read_text().splitlines()
    ]
    return {words[1] for words in lines if words[3] == "0A" and f"socket:[{words[9]}]" in held}
