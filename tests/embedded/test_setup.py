from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from embedded.errors import SetupError
from embedded.files import digest
from embedded.setup import CHECKOUT, SUPPORTED, Tool, find_python, is_current, provide_tools, version_of

if TYPE_CHECKING:
    from pathlib import Path


def test_the_interpreter_that_runs_us_will_do() -> None:
    assert version_of(find_python()) in SUPPORTED


def test_an_interpreter_that_does_not_run_has_no_version(tmp_path: Path) -> None:
    broken = tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    broken.chmod(0o755)
    assert version_of(broken) is None


def test_without_apt_the_missing_packages_are_named_with_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tools = (Tool("mvn", ("maven",), "fetches the engine"), Tool("npm", ("nodejs", "npm"), "fetches files"))
    with pytest.raises(
        SetupError, match=r"Please install maven nodejs npm and try again \(mvn fetches the engine; npm fetches files\)"
    ):
        provide_tools(tools, find_python())


def test_what_is_there_is_not_asked_for() -> None:
    provide_tools((Tool("sh", ("dash",), "runs scripts"),), find_python())


def test_a_lock_file_is_current_only_when_this_very_content_was_installed(tmp_path: Path) -> None:
    lock, stamp = tmp_path / "lock", tmp_path / "stamp"
    lock.write_text("a==1")
    assert not is_current(stamp, lock)
    stamp.write_text(digest(b"a==1"))
    assert is_current(stamp, lock)
    lock.write_text("a==2")
    assert not is_current(stamp, lock)


def test_set_up_uses_nothing_but_the_standard_library() -> None:
    """-S -I: no site-packages, so that an import of an installed wheel fails here as on a fresh machine."""
    program = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); import embedded.setup"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


def test_lock_files_name_hashes_and_no_download_addresses() -> None:
    locks = [*(CHECKOUT / "requirements").glob("*.txt"), CHECKOUT / "package-lock.json"]
    assert len(locks) == 5
    for lock in locks:
        text = lock.read_text()
        assert "sha256:" in text or "sha512-" in text
        assert '"resolved"' not in text
        assert not [
            line for line in text.splitlines() if "://" in line and "funding" not in line and '"url"' not in line
        ]


def test_a_failed_set_up_ends_with_a_sentence_and_not_a_traceback(tmp_path: Path) -> None:
    env = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    argv = [sys.executable, "-m", "embedded.setup", "development"]
    finished = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr.startswith("Set-up stopped. Please install maven")
    assert "Traceback" not in finished.stderr
