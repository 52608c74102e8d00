"""Which gate a change must pass, and which tests a word names."""

import subprocess
from pathlib import Path

import pytest

from lockstep.tests.conftest import ENGINE
from lockstep.workspace import gate


@pytest.mark.parametrize(
    ("paths", "gate_needed"),
    [
        (["acme/models/rows/network.py"], "team"),
        (["acme/data/reviews.yaml", "tests/test_rows.py", "README.md", "docs/rows.md"], "team"),
        (["acme/models/rows/network.py", "lockstep/training/loop.py"], "all"),
        (["project/models/rows/network.py"], "all"),  # another package than the project's
        (["acme_too/rows.py"], "all"),
        (["lockstep/docs/runs.md"], "all"),
        (["Pipfile.lock"], "all"),
        (["docker/Dockerfile"], "all"),
        ([".ci/run"], "all"),
        (["a-new-file"], "all"),
        ([], "all"),
        (None, "all"),
    ],
)
def test_a_change_of_the_teams_own_files_alone_needs_the_teams_gate(
    paths: list[str] | None, gate_needed: str
) -> None:
    assert gate.required(paths, "acme") == gate_needed


def git(folder: Path, *words: str) -> None:
    person = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *person, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a repository with one commit."""
    monkeypatch.delenv("LOCKSTEP_BASE", raising=False)
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    git(origin, "init", "--initial-branch=main")
    (origin / "old.py").write_text("OLD = 1\n" * 9)
    git(origin, "add", ".")
    git(origin, "commit", "-m", "one")
    git(tmp_path, "clone", str(origin), "clone")
    return clone


def commit(clone: Path, name: str) -> None:
    (clone / name).parent.mkdir(exist_ok=True)
    (clone / name).write_text(name)
    git(clone, "add", ".")
    git(clone, "commit", "-m", name)


def test_a_change_is_every_commit_since_main_and_what_is_not_committed(clone: Path) -> None:
    commit(clone, "acme/one.py")
    commit(clone, "tests/zwei ä.py")
    (clone / "old.py").write_text("NEW = 1\n")
    (clone / "new.py").touch()
    assert gate.changed_paths(clone) == ["acme/one.py", "new.py", "old.py", "tests/zwei ä.py"]


def test_a_file_that_was_moved_counts_where_it_was_and_where_it_is(clone: Path) -> None:
    (clone / "acme").mkdir()
    git(clone, "mv", "old.py", "acme/old.py")
    git(clone, "commit", "-m", "moved")
    assert gate.changed_paths(clone) == ["acme/old.py", "old.py"]


def test_what_main_has_besides_is_no_change(clone: Path) -> None:
    commit(clone.parent / "origin", "lockstep/later.py")
    commit(clone, "acme/one.py")
    git(clone, "fetch")
    assert gate.changed_paths(clone) == ["acme/one.py"]


def test_a_base_can_be_named(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(clone, "lockstep/one.py")
    monkeypatch.setenv("LOCKSTEP_BASE", "HEAD")
    assert gate.changed_paths(clone) is None
    commit(clone, "acme/two.py")
    monkeypatch.setenv("LOCKSTEP_BASE", "HEAD~1")
    assert gate.changed_paths(clone) == ["acme/two.py"]
    monkeypatch.setenv("LOCKSTEP_BASE", "0" * 40)  # GitHub's, for a branch that is new
    assert gate.changed_paths(clone) is None


def test_where_the_base_is_unknown_so_are_the_changes(clone: Path, tmp_path: Path) -> None:
    assert gate.changed_paths(clone) is None  # main itself
    commit(clone, "acme/one.py")
    git(clone, "remote", "remove", "origin")
    assert gate.changed_paths(clone) is None
    origin = (tmp_path / "origin").as_uri()
    git(tmp_path, "clone", "--depth=1", origin, "shallow")
    assert gate.changed_paths(tmp_path / "shallow") is None
    (tmp_path / "no-clone").mkdir()
    assert gate.changed_paths(tmp_path / "no-clone") is None


def test_a_word_names_files_or_tests_and_pytest_reads_no_others() -> None:
    tests = ENGINE / "tests"
    assert gate.matching("data/test_ord", tests) == [str(tests / "data" / "test_order.py")]
    name = test_a_word_names_files_or_tests_and_pytest_reads_no_others.__name__
    assert gate.matching(name[5:], tests) == [__file__, "-k", name[5:]]
    assert gate.matching("no test has (this", tests) == []


def test_sizes_leave_tests_aside(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_long.py").write_text("\n" * 99)
    (tmp_path / "one.py").write_text("def f():\n    pass\n")
    (tmp_path / "two.py").write_text("class C:\n    def f(self):\n        pass\n\n")
    expected = "2 files: median 3 lines, largest 4 (two.py); functions: median 2 lines"
    assert gate.sizes(tmp_path) == expected
