from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from embedded.accounts import Account, find, require_passage, service_account
from embedded.errors import SetupError
from embedded.home import MARKER, Home, locate, prepare, purge


def modes_of_parents(path: Path) -> dict[Path, tuple[int, int, int]]:
    return {
        parent: (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid)
        for parent in path.parents
        if (seen := parent.stat())
    }


def test_root_keeps_state_with_the_system_and_others_with_their_own_files() -> None:
    home = locate({"XDG_STATE_HOME": "/srv/ada/state", "XDG_CACHE_HOME": "/srv/ada/cache"})
    expected = "/var/lib /var/cache" if os.geteuid() == 0 else "/srv/ada/state /srv/ada/cache"
    assert f"{home.root.parent} {home.cache.parent}" == expected


def test_a_relative_home_is_refused() -> None:
    with pytest.raises(SetupError, match="FLOWPLANE_HOME is state: give it as an absolute path"):
        locate({"FLOWPLANE_HOME": "state"})


def test_a_cache_inside_the_home_is_refused_because_purging_would_remove_it() -> None:
    with pytest.raises(SetupError, match="side by side"):
        locate({"FLOWPLANE_HOME": "/srv/flowplane", "FLOWPLANE_CACHE": "/srv/flowplane/cache"})


def test_preparing_changes_no_permission_outside_home_and_cache(folder: Path) -> None:
    inner = folder / "closed-to-listing"
    inner.mkdir(mode=0o711)
    inner.chmod(0o711)
    home = Home(inner / "home", inner / "cache", service_account())
    before = modes_of_parents(home.root)
    prepare(home)
    assert modes_of_parents(home.root) == before


def test_preparing_twice_is_harmless(home: Home) -> None:
    prepare(home)
    (home.region / "kept").write_text("data")
    prepare(home)
    assert (home.region / "kept").read_text() == "data"


def test_a_strict_umask_does_not_close_the_home_to_the_service_user(home: Home) -> None:
    before = os.umask(0o077)
    try:
        prepare(Home(home.root / "deep" / "er", home.cache, home.account))
    finally:
        os.umask(before)
    require_passage(home.root / "deep" / "er" / "region", home.account, variable="FLOWPLANE_HOME")


def test_secrets_and_stores_are_closed_to_others(home: Home) -> None:
    prepare(home)
    for closed in (home.secrets, home.run, home.postgres, home.redis, home.mailbox):
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_parent_that_the_service_user_may_not_enter_is_named_and_left_alone(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    home = Home(closed / "home", folder / "cache", service_account())
    if home.account is None:
        prepare(home)  # Without root we run everything ourselves, and may enter.
        return
    with pytest.raises(SetupError, match=rf"flowplane, who runs .* may not enter {closed}\..*chmod o\+x {closed}"):
        prepare(home)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_home_whose_sockets_would_not_fit_is_refused(folder: Path) -> None:
    home = Home(folder / ("x" * 90), folder / "cache")
    with pytest.raises(SetupError, match=r"too long by \d+ bytes.*Choose a shorter folder"):
        prepare(home)
    assert not home.root.exists()


def test_a_folder_with_other_peoples_files_is_refused(home: Home) -> None:
    home.root.mkdir()
    (home.root / "thesis.tex").write_text("precious")
    with pytest.raises(SetupError, match="holds files that are not Flowplane's"):
        prepare(home)


def test_purging_removes_a_home_of_ours(home: Home) -> None:
    prepare(home)
    purge(home)
    assert not home.root.exists()


def test_purging_refuses_a_folder_without_our_marker(home: Home) -> None:
    prepare(home)
    (home.root / MARKER).unlink()
    with pytest.raises(SetupError, match="not ours to remove"):
        purge(home)
    assert home.secrets.exists()


def test_purging_does_not_follow_links_out_of_the_home(home: Home, folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("precious")
    prepare(home)
    (home.region / "link").symlink_to(elsewhere)
    (home.root / "link").symlink_to(elsewhere)
    purge(home)
    assert (elsewhere / "file").exists()


def test_the_service_user_has_no_shell_and_no_home() -> None:
    account = service_account()
    assert account is None or account == find("flowplane")
    assert account is None or isinstance(account, Account)
    assert account is None or account.uid != 0
