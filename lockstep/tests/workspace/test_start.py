"""A team's tree begins: in a new folder, or by a new name in place; or nothing is made."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from lockstep.ground.errors import WorkspaceError
from lockstep.tests.conftest import mostly_slow
from lockstep.tests.trees import files
from lockstep.tests.workspace.test_upgrade import (
    IDENTITY,
    clone,
    commit,
    edit,
    git,
    lockstep,
    package,
    state,
    upstream,
)
from lockstep.workspace.start import rename, start

__all__ = ["upstream"]


@pytest.fixture
def first(tmp_path: Path, upstream: Path) -> Path:
    """A clone of the engine's repository."""
    return clone(upstream, tmp_path / "first")


@pytest.mark.slow
def test_a_new_tree_has_the_engine_whole_one_model_and_one_commit(
    first: Path, tmp_path: Path
) -> None:
    done = lockstep(first, "init", "../our models/our-models", **IDENTITY)
    team = tmp_path / "our models" / "our-models"
    assert (done.returncode, package(team)) == (0, "our_models"), done.stderr
    # The command works where it is read, in any shell's words.
    assert shlex.split(done.stdout.splitlines()[-1])[1:2] == [str(team / "workbench")]
    assert git(team, "status", "--porcelain") == ""
    assert len(git(team, "log", "--oneline").splitlines()) == 1
    engine = {k: v for k, v in files(first).items() if k.startswith("lockstep/")}
    engine = {k: v for k, v in engine.items() if "__pycache__" not in k}
    assert {k: v for k, v in files(team).items() if k in engine} == engine
    assert [path.name for path in (team / "our_models" / "models").iterdir() if path.is_dir()] == [
        "digits"
    ]
    assert not (team / package(first)).exists()
    assert (team / "README.md").read_text().startswith("# our_models\n")
    doctor = lockstep(team, "doctor").stdout
    assert "0 files edited" in doctor
    assert '"digits"' in lockstep(team, "config", "--json").stdout


def test_in_place_the_package_has_another_name_and_all_else_is_as_it_was(first: Path) -> None:
    before = package(first)
    (first / "README.md").write_text("# Our own\n")
    commit(first, "Our README")
    tree = state(first)[0]
    name = f"{before}_of_ours"
    assert lockstep(first, "init", "--name", name).returncode == 0
    assert (package(first), (first / before).exists()) == (name, False)
    renamed = {re.sub(f"^{before}/", f"{name}/", path): content for path, content in tree.items()}
    changed = {path for path, content in state(first)[0].items() if renamed.get(path) != content}
    assert changed <= {"pyproject.toml", "docker/Dockerfile", "docker/compose.yaml"}
    assert git(first, "diff", "--name-only") == ""  # all is in the index
    git(first, "reset", "--quiet", "--hard")
    assert state(first)[0] == tree


@pytest.mark.parametrize(
    ("name", "reason"),
    mostly_slow(
        [
            ("class", "not a name for a Python package"),
            ("Acme", "not a name for a Python package"),
            ("json", "a module of Python's own has this name"),
            ("lockstep", "the tree has a folder or file of this name"),
            ("tests", "the tree has a folder or file of this name"),
            ("torch", "an installed package has this name"),
        ],
        quick=2,
    ),
)
def test_a_name_that_no_package_can_have_is_refused_and_nothing_is_made(
    first: Path, tmp_path: Path, name: str, reason: str
) -> None:
    before = files(first)
    for begin in (
        lambda: start(tmp_path / "new", name, first),
        lambda: rename(name, lambda _: None, first),
    ):
        with pytest.raises(WorkspaceError, match=f"^{name}: {reason}.*choose another: --name NAME"):
            begin()
    assert (files(first), [path.name for path in tmp_path.iterdir()]) == (before, ["first"])


def test_a_folder_that_is_taken_or_in_the_clone_is_refused(first: Path, tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "notes.txt").write_text("Ours.\n")
    with pytest.raises(WorkspaceError, match="acme: exists and is not empty; name another"):
        start(tmp_path / "acme", root=first)
    with pytest.raises(WorkspaceError, match="sub: lies in this clone, expected a folder beside"):
        start(first / "sub", root=first)
    assert [path.name for path in (tmp_path / "acme").iterdir()] == ["notes.txt"]


def test_outside_of_a_clone_one_line_says_so(first: Path, tmp_path: Path) -> None:
    shutil.rmtree(first / ".git")
    with pytest.raises(WorkspaceError, match="not a clone with git"):
        start(tmp_path / "acme", root=first)


def test_the_new_tree_remembers_an_address_on_the_web_without_a_password(
    first: Path, tmp_path: Path
) -> None:
    address = "https://me:secret@git.example.com/engine.git"  # pragma: allowlist secret
    git(first, "remote", "set-url", "origin", address)
    start(tmp_path / "acme", root=first)
    text = (tmp_path / "acme" / "pyproject.toml").read_text()
    assert 'upstream = "https://git.example.com/engine.git"' in text


def test_uncommitted_edits_are_refused_in_place(first: Path) -> None:
    edit(first / "tasks.py", lambda text: text + "# ours\n")
    with pytest.raises(WorkspaceError, match=r"tasks.py: edited and not committed"):
        rename("acme", lambda _: None, first)
