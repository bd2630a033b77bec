from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from embedded import database
from embedded.errors import SetupError
from embedded.processes import Process, identity, run

if TYPE_CHECKING:
    from embedded.testbench import Testbench


def connect(bench: Testbench, role: str, dbname: str = "flowplane") -> psycopg.Connection:
    return psycopg.connect(host=str(bench.home.postgres), port=5432, user=role, dbname=dbname, autocommit=True)


def server_pid(bench: Testbench) -> int:
    return int((bench.home.database_folder / "postmaster.pid").read_text().split()[0])


def test_the_roles_can_be_made_again_without_harm(bench: Testbench) -> None:
    database.provide_roles(bench.home, bench.parts)
    database.provide_roles(bench.home, bench.parts)


def test_no_role_of_ours_is_above_row_level_security(bench: Testbench) -> None:
    with connect(bench, "postgres") as connection:
        rows = connection.execute(
            "SELECT rolname FROM pg_roles WHERE (rolsuper OR rolbypassrls OR rolcreaterole) AND rolname LIKE 'flow%'"
        ).fetchall()
    assert rows == []


def test_the_web_role_reaches_the_system_role_only_by_saying_so(bench: Testbench) -> None:
    with connect(bench, "flowplane_owner") as owner:
        owner.execute("CREATE TABLE seen (word text)")
        owner.execute("INSERT INTO seen VALUES ('a row')")
        owner.execute("CREATE POLICY all_rows ON seen TO flowplane_system USING (true)")
        owner.execute("ALTER TABLE seen ENABLE ROW LEVEL SECURITY")
    try:
        with connect(bench, "flowplane_app") as app:
            assert app.execute("SELECT count(*) FROM seen").fetchone() == (0,)
            app.execute("SET ROLE flowplane_system")
            assert app.execute("SELECT count(*) FROM seen").fetchone() == (1,)
    finally:
        with connect(bench, "flowplane_owner") as owner:
            owner.execute("DROP TABLE seen")


def test_the_web_role_cannot_make_tables(bench: Testbench) -> None:
    with connect(bench, "flowplane_app") as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute("CREATE TABLE mine (word text)")


def test_only_the_owner_gives_up_waiting_for_a_lock(bench: Testbench) -> None:
    for role, seconds in (("flowplane_owner", "5s"), ("flowplane_app", "0"), ("flowplane_system", "0")):
        with connect(bench, role) as connection:
            assert connection.execute("SHOW lock_timeout").fetchone() == (seconds,)


def test_who_freezes_in_a_transaction_holds_nobody_up_for_long(bench: Testbench) -> None:
    for role, seconds in (("flowplane_owner", "0"), ("flowplane_app", "30s"), ("flowplane_system", "30s")):
        with connect(bench, role) as connection:
            assert connection.execute("SHOW idle_in_transaction_session_timeout").fetchone() == (seconds,)


def test_the_database_listens_on_no_network(bench: Testbench) -> None:
    with connect(bench, "postgres") as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


def test_the_user_that_engines_run_as_cannot_sign_in(bench: Testbench) -> None:
    if bench.home.account is None:
        return  # Without root there is one user for everything.
    psql = str(bench.parts.postgres / "bin" / "psql")
    argv = [psql, database.superuser_address(bench.home), "-c", "SELECT 1"]
    finished = subprocess.run(
        argv, cwd=bench.home.postgres, capture_output=True, check=False, text=True, **identity(bench.home.account)
    )
    assert finished.returncode != 0
    assert "Peer authentication failed" in finished.stderr


def test_the_server_runs_as_the_service_user(bench: Testbench) -> None:
    owner = (Process(server_pid(bench)).folder).stat().st_uid
    assert owner == (bench.home.account.uid if bench.home.account else os.geteuid())


def test_a_killed_server_is_succeeded_even_when_its_number_passed_to_another_process(bench: Testbench) -> None:
    os.kill(server_pid(bench), signal.SIGKILL)
    lock = bench.home.database_folder / "postmaster.pid"
    # A process of the same user under the old number: PostgreSQL by itself would refuse to start.
    with subprocess.Popen(["sleep", "60"], cwd="/", **identity(bench.home.account)) as stranger:
        text = lock.read_text().splitlines()
        lock.write_text("\n".join([str(stranger.pid), *text[1:]]) + "\n")
        database.stop_strays(bench.home)
        bench.restart_database()
        assert stranger.poll() is None
        stranger.kill()
    with connect(bench, "flowplane_app") as app:
        assert app.execute("SELECT 1").fetchone() == (1,)


def test_a_stray_server_is_stopped(bench: Testbench) -> None:
    stray = server_pid(bench)
    database.stop_strays(bench.home)
    assert Process(stray).working_directory is None
    bench.restart_database()


def test_data_of_another_major_version_is_refused_with_a_way_out(bench: Testbench) -> None:
    version = bench.home.database_folder / "PG_VERSION"
    before = version.read_text()
    version.write_text("11\n")
    try:
        with pytest.raises(SetupError, match="is PostgreSQL 11's, and this release brings"):
            database.initialise(bench.home, bench.parts)
    finally:
        version.write_text(before)


def test_initialising_again_keeps_the_data(bench: Testbench) -> None:
    before = (bench.home.database_folder / "global").stat().st_ino
    database.initialise(bench.home, bench.parts)
    assert (bench.home.database_folder / "global").stat().st_ino == before


def test_psql_ignores_the_machines_own_settings(bench: Testbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "elsewhere.example")
    monkeypatch.setenv("PGPORT", "1")
    database.provide_roles(bench.home, bench.parts)
    database.wait_until_ready(bench.home)


def test_the_version_of_the_client_fits_the_server(bench: Testbench) -> None:
    said = run([bench.parts.postgres / "bin" / "psql", "--version"], purpose="Asking psql")
    assert (bench.home.database_folder / "PG_VERSION").read_text().strip() in said
