from __future__ import annotations

from typing import TYPE_CHECKING

from embedded import parts
from embedded.home import Home, prepare
from embedded.processes import run

if TYPE_CHECKING:
    from pathlib import Path

    from embedded.parts import Parts


def provide(home: Home) -> Parts:
    prepare(home)
    return parts.provide(home.cache)


def test_the_programs_run_as_the_service_user(home: Home) -> None:
    programs = provide(home)
    commands: tuple[list[str | Path], ...] = (
        [programs.postgres / "bin" / "postgres", "--version"],
        [programs.redis / "redis-server", "--version"],
        [programs.rclone / "rclone", "version"],
        # -Xshare:on refuses to start without the class archive that we add.
        [programs.java / "bin" / "java", "-Xshare:on", "-version"],
    )
    for argv in commands:
        run(argv, purpose="Running a part", cwd=home.redis, account=home.account)


def test_a_second_time_copies_nothing_and_clears_nothing_but_leftovers(home: Home) -> None:
    first = provide(home)
    before = (first.postgres.stat().st_ino, first.java.stat().st_ino)
    assert provide(home) == first
    assert (first.postgres.stat().st_ino, first.java.stat().st_ino) == before


def test_a_copy_that_was_cut_short_is_made_anew(home: Home) -> None:
    prepare(home)
    leftover = home.cache / "redis" / ".unfinished-killed"
    leftover.mkdir(parents=True)
    programs = parts.provide(home.cache)
    assert not leftover.exists()
    assert (programs.redis / "redis-server").exists()


def test_the_name_in_the_cache_follows_the_content() -> None:
    names = {
        parts.content_digest(part, parts._find(part))
        for part in (parts.POSTGRES, parts.REDIS, parts.JAVA, parts.RCLONE)
    }
    assert len(names) == 4
