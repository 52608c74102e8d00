"""Simulated teams take a newer engine: nothing of theirs is lost, whenever it is killed."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep import __version__
from lockstep.records.run import Run, runs
from lockstep.tests.conftest import ROOT, copy_of_tracked_files, plain_environment
from lockstep.tests.run.test_identity import FILES
from lockstep.tests.test_docs import blocks
from lockstep.tests.trees import files
from lockstep.workspace import engine
from lockstep.workspace.pins import merge_pins
from lockstep.workspace.start import Names

NEXT = "{}.{}.0".format(*(int(part) + n for n, part in enumerate(__version__.split(".")[:2])))
IDENTITY = {
    f"GIT_{role}_{what}": "team@localhost"
    for role in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
MERGED = ["Pipfile", "docker/Dockerfile", ".devcontainer/devcontainer.json", "tasks.py"]
PINNED = re.compile(r'(?m)^(matplotlib = "==)(.+)(")$')


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *words],
        cwd=folder,
        env=os.environ | IDENTITY,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--no-verify", "-m", message)


def lockstep(
    folder: Path, *words: str, before: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """``python -m lockstep`` of a tree, after the code ``before``, on that tree's own project."""
    start = "from lockstep.cli import entry; entry()"
    kept = {k: v for k, v in plain_environment().items() if k != "LOCKSTEP_PROJECT"}
    return subprocess.run(
        [sys.executable, "-c", f"{before}\n{start}", *words],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(folder)} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's repository: this tree under its version's tag, and a next version of it."""
    work = tmp_path_factory.mktemp("upstream") / "work"
    work.mkdir()
    copy_of_tracked_files(work)
    (work / "lockstep" / "docs" / "old.md").write_text("Removed in the next version.\n")
    git(work, "init", "--quiet")
    git(work, "add", "--all")
    subprocess.run(
        [sys.executable, "-m", "lockstep.workspace.engine"],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(work)},
        check=True,
    )
    commit(work, __version__)
    git(work, "tag", __version__)
    git(work, "branch", "first")
    edit(work / "lockstep/__init__.py", lambda text: text.replace(__version__, NEXT))
    edit(work / "lockstep/training/loop.py", lambda text: text + "\n# Of the next version.\n")
    edit(work / "lockstep/records/report.py", lambda text: text + '\nEDITION = "next"\n')
    (work / "lockstep/ground/next.py").write_text('"""New in the next version."""\n')
    (work / "lockstep/docs/old.md").unlink()
    edit(work / "docker/Dockerfile", lambda text: "# The next version's images.\n" + text)
    edit(work / "tasks.py", lambda text: text.replace('"""', '"""Next: ', 1))
    edit(work / "Pipfile", lambda text: PINNED.sub(r"\g<1>9.9.9\3", text))
    edit(
        work / ".devcontainer/devcontainer.json",
        lambda text: text.replace('"init": true', '"init": false'),
    )
    commit(work, NEXT)
    git(work, "tag", f"v{NEXT}")
    bare = work.with_name("lockstep.git")
    git(work, "clone", "--quiet", "--bare", str(work), str(bare))
    return bare


def clone(upstream: Path, folder: Path) -> Path:
    git(folder.parent, "clone", "--quiet", "--branch", "first", str(upstream), str(folder))
    return folder


def with_history(upstream: Path, folder: Path) -> Path:
    """A team that works in a clone."""
    return clone(upstream, folder)


def without_history(upstream: Path, folder: Path) -> Path:
    """A team that made its tree with init."""
    done = lockstep(
        clone(upstream, folder.with_name("clone")),
        "init",
        str(folder),
        "--name",
        "acme",
        **IDENTITY,
    )
    assert (done.returncode, git(folder, "status", "--porcelain")) == (0, ""), done.stderr
    return folder


def package(team: Path) -> str:
    return Names.of((team / "pyproject.toml").read_text()).package


# What the contract tests ask of the model besides: an example that is shown can be read again.
PICTURES = {
    "import torch\n\nFACTOR": "import numpy as np\nimport torch\n\n"
    "from lockstep.model import pictures\n\nFACTOR",
    "return str(example)": "return pictures.drawn((example * 15.9375).astype(np.uint8))",
    "import Picture\n": "import Picture, pictures\n",
    "return np.asarray(source, np.uint8)": "return np.rint("
    "pictures.grey(source, (8, 8)) / 255 * 16).astype(np.uint8)",
}


def work(team: Path) -> Path:
    """A team's own work: a model and what it shares, a dependency, edits of the shared files."""
    name = package(team)
    for path, text in FILES.items():
        if path not in ("acme/__init__.py", "acme/models/__init__.py"):
            mine = team / path.replace("acme", name)
            mine.parent.mkdir(parents=True, exist_ok=True)
            for old, new in PICTURES.items():
                text = text.replace(old, new)
            mine.write_text(text.replace("acme", name))
    (team / "README.md").write_text("# Our digits\n")
    (team / "research").mkdir()
    (team / "research" / "notes.md").write_text("What we tried.\n")
    shutil.rmtree(team / "lockstep" / "benchmarks", ignore_errors=True)
    edit(team / "Pipfile", lambda text: PINNED.sub(r'\g<0>\nmaturin = "==1.9.0"', text))
    edit(team / "tasks.py", lambda text: text + "\n\nOURS = 1\n")
    edit(team / "docker/Dockerfile", lambda text: text + "\n# Our own stage.\n")
    edit(
        team / ".devcontainer/devcontainer.json",
        lambda text: text.replace('"redhat.vscode-yaml"', '"redhat.vscode-yaml", "our.extension"'),
    )
    commit(team, "Our work")
    return team


@pytest.fixture
def team(tmp_path: Path, upstream: Path) -> Path:
    """A team without history, with work of its own and files that git does not track."""
    team = work(without_history(upstream, tmp_path / "team"))
    (team / "lockstep" / "notes.txt").write_text("Not committed.\n")
    (team / "runs").mkdir()
    (team / "runs" / "kept").write_text("A run.\n")
    return team


def state(team: Path) -> tuple[dict[str, tuple[int, bytes]], str]:
    """All files of a tree but git's and bytecode, and what git has in its index."""
    listed = {
        path: content
        for path, content in files(team).items()
        if not path.startswith((".git/", ".pytest_cache/")) and "__pycache__" not in path
    }
    return listed, git(team, "ls-files", "--stage")


def upgrade(
    team: Path, upstream: Path, *words: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    source = ("--from", str(upstream), "--no-lock", "--no-test")
    return lockstep(team, "upgrade", *source, *words, before=before)


@pytest.mark.slow
@pytest.mark.parametrize("begin", [with_history, without_history])
def test_a_team_takes_a_newer_engine_and_loses_nothing(
    tmp_path: Path, upstream: Path, begin: Callable[[Path, Path], Path]
) -> None:
    team = work(begin(upstream, tmp_path / "team"))
    words = ("train", "rows/base", "data.limit=300", "--seed", "7")
    assert lockstep(team, *words).returncode == 0
    assert lockstep(team, *words, "--until", "4", "--runs", "runs/stopped").returncode == 0
    (finished,) = runs(team / "runs")
    before = state(team)[0]

    test = [] if begin is with_history else ["--json"]
    source = ("--from", str(upstream), "--no-lock", *(["--no-test"] if not test else []))
    done = lockstep(team, "upgrade", *source, *test)
    assert done.returncode == 0, done.stdout + done.stderr
    if test:
        report = json.loads(done.stdout)
        assert report["bits"]["before"] == report["bits"]["after"] != ""
        assert (report["bits"]["files"], report["upgrade"]["conflicts"]) == ([], [])
    else:
        assert "identities: not changed by the engine" in done.stdout

    after = state(team)[0]
    ours = (f"{package(team)}/", "research/", "README.md", "runs/", "tests/")
    assert {path: after.get(path) for path in before if path.startswith(ours)} == {
        path: content for path, content in before.items() if path.startswith(ours)
    }
    assert not (team / "lockstep/benchmarks").exists()  # stays removed
    assert not (team / "lockstep/docs/old.md").exists()
    assert (team / "lockstep/ground/next.py").exists()
    changed = {path for path in before.keys() | after if before.get(path) != after.get(path)}
    assert sorted(path for path in changed if not path.startswith("lockstep/")) == sorted(MERGED)
    pipfile = (team / "Pipfile").read_text()
    assert 'matplotlib = "==9.9.9"\nmaturin = "==1.9.0"\n' in pipfile
    assert "Next: " in (team / "tasks.py").read_text() and "OURS" in (team / "tasks.py").read_text()
    dockerfile = (team / "docker/Dockerfile").read_text()
    assert dockerfile.startswith("# The next") and dockerfile.endswith("# Our own stage.\n")
    settings = (team / ".devcontainer/devcontainer.json").read_text()
    assert '"init": false' in settings and "our.extension" in settings

    commit(team, "The next engine")
    (doctor,) = [line for line in lockstep(team, "doctor").stdout.splitlines() if "engine:" in line]
    assert NEXT in doctor
    reproduced = lockstep(team, "reproduce", str(finished.folder), "--steps", "3")
    assert reproduced.returncode == 0, reproduced.stderr
    resumed = lockstep(team, *words, "--runs", "runs/stopped")
    assert "at step 4" in resumed.stderr
    (run,) = runs(team / "runs/stopped")
    assert weights(run) == weights(finished)
    again = lockstep(team, "upgrade", "--from", str(upstream))
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True), again.stderr


def weights(run: Run) -> str:
    assert run.receipt
    return str(run.receipt["results"]["weights_sha256"])


@pytest.mark.slow
def test_conflicts_are_named_by_file_and_marked_and_nothing_else_is(
    team: Path, upstream: Path
) -> None:
    edit(team / "tasks.py", lambda text: text.replace('"""', '"""Ours: ', 1))
    edit(team / "lockstep/records/report.py", lambda text: text + "\nOURS = 2\n")
    edit(team / "lockstep/ground/files.py", lambda text: text + "\nOURS = 3\n")
    edit(team / "lockstep/docs/old.md", lambda text: text + "Ours.\n")
    (team / ".devcontainer/devcontainer.json").unlink()
    commit(team, "Ours")
    before = state(team)
    tried = upgrade(team, upstream, "--dry-run", "--json")
    assert state(team) == before
    done = upgrade(team, upstream, "--json")
    report = json.loads(done.stdout)["upgrade"]
    assert (done.returncode, report["conflicts"]) == (1, ["lockstep/records/report.py", "tasks.py"])
    assert json.loads(tried.stdout)["upgrade"] == report
    unmerged = {line.split("\t")[1] for line in git(team, "ls-files", "-u").splitlines()}
    assert unmerged == {*report["conflicts"]}
    for path in report["conflicts"]:
        text = (team / path).read_text()
        assert all(mark in text for mark in ("<<<<<<<", "=======", ">>>>>>>"))
    assert (team / "lockstep/ground/files.py").read_text().endswith("\nOURS = 3\n")
    assert {"lockstep/ground/files.py", "lockstep/docs/old.md"} <= {*report["edited"]}
    assert (team / "lockstep/docs/old.md").read_text().endswith("Ours.\n")
    assert not (team / ".devcontainer/devcontainer.json").exists()
    assert [note.partition(":")[0] for note in report["notes"]] == [
        ".devcontainer/devcontainer.json",
        "lockstep/docs/old.md",
    ]
    assert (team / "lockstep/notes.txt").read_text() == "Not committed.\n"
    git(team, "reset", "--quiet", "--hard")
    assert state(team) == before


def test_a_tree_with_edits_that_are_not_committed_is_refused(team: Path, upstream: Path) -> None:
    edit(team / "README.md", lambda text: text + "More.\n")
    before = state(team)
    done = upgrade(team, upstream)
    assert (done.returncode, state(team)) == (2, before)
    assert done.stderr == (
        "error: README.md: edited and not committed; commit (or `git stash`), then run the same "
        "command.\n"
    )


@pytest.mark.slow
def test_a_file_that_is_not_tracked_and_in_the_way_is_refused(team: Path, upstream: Path) -> None:
    (team / "lockstep/ground/next.py").write_text("OURS = 1\n")
    before = state(team)
    done = upgrade(team, upstream)
    assert (done.returncode, state(team)) == (2, before)
    assert done.stderr.splitlines()[-1].startswith(
        "error: lockstep/ground/next.py: not tracked by git"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", "nowhere"), "error: nowhere: cannot be read as a git repository"),
        (("9.9",), "error: 9.9: no such tag in "),
    ],
)
def test_a_repository_or_tag_that_is_not_there_is_named(
    team: Path, upstream: Path, words: tuple[str, ...], message: str
) -> None:
    before = state(team)
    done = upgrade(team, upstream, *words)
    assert (done.returncode, state(team)) == (2, before)
    assert done.stderr.splitlines()[-1].startswith(message)


@pytest.mark.slow
def test_without_a_repository_one_line_asks_for_it(team: Path, upstream: Path) -> None:
    edit(team / "pyproject.toml", lambda text: re.sub("(?m)^upstream = .*$", "", text))
    commit(team, "No upstream")
    done = lockstep(team, "upgrade")
    assert (done.returncode, done.stderr.partition(";")[0]) == (
        2,
        "error: upstream: not set, expected the engine's repository",
    )
    edit(
        team / "pyproject.toml", lambda text: text + f'\n[tool.lockstep]\nupstream = "{upstream}"\n'
    )
    commit(team, "Upstream")
    done = lockstep(team, "upgrade", "--no-lock", "--no-test")
    assert (done.returncode, NEXT in done.stdout) == (0, True), done.stderr


def stopped(act: int, signal: str) -> str:
    """Code after which a process gets a signal right before its n-th act that changes files.

    The first three prepare; the fourth writes the plan, the fifth exchanges the engine's folder.
    """
    return f"""
import os, shutil, signal
from lockstep.workspace import change
acts = 0
def counted(act):
    def stop_or_act(*words, **options):
        global acts
        acts += 1
        if acts == {act}:
            os.kill(os.getpid(), signal.{signal})
        return act(*words, **options)
    return stop_or_act
os.replace, shutil.rmtree = counted(os.replace), counted(shutil.rmtree)
change.exchange = counted(change.exchange)
"""


@pytest.mark.slow
def test_killed_at_any_act_it_leaves_the_old_tree_or_one_that_the_same_command_finishes(
    team: Path, upstream: Path, tmp_path: Path
) -> None:
    edit(team / "tasks.py", lambda text: text.replace('"""', '"""Ours: ', 1))
    commit(team, "Ours, in conflict")
    (team / "lockstep" / "late.txt").write_text("Not committed.\n")
    before = state(team)
    whole = shutil.copytree(team, tmp_path / "whole", symlinks=True)
    first = upgrade(whole, upstream)
    expected, ends = state(whole), []
    for act in range(1, 30):
        tree = shutil.copytree(team, tmp_path / f"killed-{act}", symlinks=True)
        killed = upgrade(tree, upstream, before=stopped(act, "SIGKILL"))
        if killed.returncode == first.returncode:
            break  # there is no such act any more
        left = visible(state(tree))
        ends.append("old" if left == before else "new" if left == expected else "between")
        done = upgrade(tree, upstream)
        if (done.returncode, done.stdout) == (first.returncode, first.stdout):
            assert state(tree) == expected
        else:
            assert (left, f"engine {NEXT}: merged but not committed" in done.stderr) == (
                expected,
                1,
            )
        shutil.rmtree(tree)
    # The engine, a file of the team's in it, four files, the index; then what was aside is removed.
    assert ends == ["old"] * 5 + ["between"] * 6 + ["new"] * 2


def visible(
    state: tuple[dict[str, tuple[int, bytes]], str],
) -> tuple[dict[str, tuple[int, bytes]], str]:
    """A tree without the hidden folder."""
    listed = {
        path: content for path, content in state[0].items() if path[:16] != ".lockstep-change"
    }
    return listed, state[1]


@pytest.mark.slow
def test_interrupted_before_it_publishes_it_leaves_all_as_it_was(
    team: Path, upstream: Path
) -> None:
    before = state(team)
    done = upgrade(team, upstream, before=stopped(3, "SIGTERM"))
    assert (done.returncode, done.stdout, state(team)) == (130, "", before)
    assert git(team, "status", "--porcelain", "--untracked-files=no") == ""


@pytest.mark.slow
def test_an_edit_made_after_a_kill_is_not_overwritten(team: Path, upstream: Path) -> None:
    upgrade(team, upstream, before=stopped(7, "SIGKILL"))
    edit(team / "tasks.py", lambda text: text + "\nLATE = 1\n")
    before = state(team)
    done = upgrade(team, upstream)
    assert (done.returncode, state(team)) == (2, before)
    assert done.stderr.startswith("error: tasks.py: edited after the command was interrupted")


@pytest.mark.slow
def test_the_commands_of_the_page_on_upgrades_run(tmp_path: Path, upstream: Path) -> None:
    page = ROOT / "lockstep" / "docs" / "upgrade.md"
    mark = "run by lockstep/tests/workspace/test_upgrade.py"
    start, rename, upgrade = (block.text for block in blocks(page) if block.mark == mark)
    first = clone(upstream, tmp_path / "first")
    shell(first, start)
    shell(first, rename)
    (tmp_path / "lockstep").symlink_to(upstream)
    shell(tmp_path / "acme", upgrade)
    assert NEXT in (tmp_path / "acme/lockstep/__init__.py").read_text()
    assert [package(tmp_path / name) for name in ("first", "acme")] == ["acme", "acme"]


def shell(folder: Path, text: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {k: v for k, v in plain_environment().items() if k != "LOCKSTEP_PROJECT"}
    variables = kept | IDENTITY | {"PATH": path, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        ["sh", "-ec", text], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pins_of_both_sides_are_merged_package_by_package() -> None:
    base = '[packages]\na = "==1"\nb = "==1"\nd = "==1"\n\n[dev-packages]\nx = "==1"\n'
    ours = base.replace('b = "==1"', 'b = "==1"\nc = "==5"')
    new = base.replace('b = "==1"', 'b = "==2"').replace('d = "==1"\n', 'e = "==1"\n')
    assert merge_pins(base, ours, new) == (
        '[packages]\na = "==1"\nb = "==2"\nc = "==5"\ne = "==1"\n\n[dev-packages]\nx = "==1"\n'
    )
    assert merge_pins(base, ours.replace('b = "==1"', 'b = "==3"'), new) is None


@pytest.mark.slow
def test_the_doctor_counts_edited_files_of_the_engine(team: Path) -> None:
    folder = team / "lockstep"
    listed = [name for name in engine.edits(folder) if not name.startswith("benchmarks/")]
    assert listed == []  # what the team has removed counts as well
    edit(folder / "records/report.py", lambda text: text + "# ours\n")
    (folder / "py.typed").unlink(missing_ok=True)
    assert "records/report.py" in engine.edits(folder)
    found = json.loads(lockstep(team, "doctor", "--json").stdout)[0]
    assert (found["name"], found["text"]) == ("engine", engine.summary(folder).split(" ", 1)[1])


@pytest.mark.slow  # it is for the engine's developers: a team may edit what it likes
def test_the_manifest_is_of_the_engine_as_it_is() -> None:
    assert engine.edits() == []
