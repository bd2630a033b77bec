"""Which code is the previous release, on real repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from embedded.errors import SetupError
from tests.e2e import releases
from tests.e2e.releases import Release, changes_the_database, line_of, pins

BASELINE = "provisioning/migrations/0001_initial.py"
NEWER = "provisioning/migrations/0003_more.py"


def previous_commit(folder: Path) -> str:
    """Here every migration counts but those that say that they are nothing."""
    return releases.previous_commit(folder, is_felt=lambda file: "nothing" not in file)


class Repository:
    """A repository of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *arguments], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def write(self, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    def commit(self, name: str) -> str:
        """Add a file; the new commit."""
        self.write(name)
        self.git("add", name)
        self.git("commit", "--quiet", "--message", name)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    made.commit(BASELINE)
    return made


def test_without_a_newer_migration_it_is_this_code(repository: Repository) -> None:
    head = repository.commit("README.md")
    assert previous_commit(repository.folder) == head


def test_it_is_the_code_before_the_newest_migration(repository: Repository) -> None:
    before = repository.commit("README.md")
    repository.commit(NEWER)
    repository.commit("CONTRIBUTING.md")
    assert previous_commit(repository.folder) == before


def test_a_migration_that_changes_nothing_is_passed_over(repository: Repository) -> None:
    before = repository.commit("README.md")
    repository.commit(NEWER)
    repository.commit("CONTRIBUTING.md")
    repository.commit("provisioning/migrations/0004_nothing.py")
    repository.write("provisioning/migrations/0005_nothing.py")
    assert previous_commit(repository.folder) == before


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "is_felt"),
    [("0007_kubernetes_regions", False), ("0008_operation_receipt", True), ("0010_regions_are_counted", True)],
)
def test_choices_are_nothing_to_the_database_and_columns_and_triggers_are(name: str, *, is_felt: bool) -> None:
    assert changes_the_database(f"provisioning/migrations/{name}.py") == is_felt


def test_a_new_apps_first_migration_is_a_newer_one(repository: Repository) -> None:
    before = repository.commit("README.md")
    repository.commit("console/migrations/0001_initial.py")
    assert previous_commit(repository.folder) == before


def test_what_a_branch_brings_comes_when_it_is_merged(repository: Repository) -> None:
    repository.git("switch", "--quiet", "--create", "branch")
    repository.commit(NEWER)
    repository.git("switch", "--quiet", "main")
    before = repository.commit("README.md")
    repository.git("merge", "--quiet", "--no-ff", "--message", "merge", "branch")
    assert previous_commit(repository.folder) == before


@pytest.mark.parametrize("is_staged", [False, True])
def test_before_a_migration_is_committed_it_is_the_last_commit(repository: Repository, *, is_staged: bool) -> None:
    repository.commit(NEWER)
    head = repository.commit("README.md")
    repository.write("provisioning/migrations/0004_still_more.py")
    if is_staged:
        repository.git("add", ".")
    assert previous_commit(repository.folder) == head


def clone(repository: Repository) -> Path:
    """A clone as CI makes it: the last commit alone."""
    folder = repository.folder.with_name("clone")
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.folder}", str(folder))
    return folder


def test_a_shallow_clone_fetches_its_history(repository: Repository) -> None:
    before = repository.commit("README.md")
    repository.commit(NEWER)
    assert previous_commit(clone(repository)) == before


def test_a_shallow_clone_that_cannot_says_what_to_do(repository: Repository) -> None:
    shallow = clone(repository)
    repository.folder.rename(repository.folder.with_name("gone"))
    with pytest.raises(SetupError, match=r"Give this checkout its history .* a fetch depth of 0"):
        previous_commit(shallow)


def test_files_without_a_repository_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"Give this checkout its history (.|\n)*not a git repository"):
        previous_commit(tmp_path)


def test_it_is_unpacked_as_it_was_committed_with_our_front_end_files(repository: Repository, tmp_path: Path) -> None:
    commit = repository.commit("README.md")
    repository.write("node_modules/later")
    release = Release.unpack(commit, tmp_path / "old", checkout=repository.folder)
    assert (release.folder / "README.md").is_file()
    assert (release.folder / "node_modules" / "later").is_file()
    assert not (tmp_path / "old.tar").exists()


def test_requirements_of_another_line_are_told(tmp_path: Path) -> None:
    lock = tmp_path / "requirements" / "embedded.txt"
    lock.parent.mkdir()
    lock.write_text("django==4.2.1 \\\n    --hash=sha256:0\ngone-by-now==1.0\nredis==7.0.0\n")
    assert pins(lock) == {"django": "4.2.1", "gone-by-now": "1.0", "redis": "7.0.0"}
    note = Release("0123456789abcdef", tmp_path).note()
    assert "0123456789ab" in note
    assert "django 4.2.1 (here 5." in note
    assert "gone-by-now 1.0 (here gone)" in note
    assert [line_of(version) for version in ("5.2.1", "0.6.1", "")] == [("5",), ("0", "6"), ("",)]
