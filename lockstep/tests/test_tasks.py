"""The tasks and the hooks, as people run them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.tests.conftest import ROOT

BIN = Path(sys.executable).parent


def run(*words: str, **options: str) -> subprocess.CompletedProcess[str]:
    cwd = options.get("cwd", str(ROOT))
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_every_task_is_listed_with_its_sentence() -> None:
    listed = run(str(BIN / "invoke"), "--list").stdout
    tasks = "audit bundle compare config data doctor evaluate format lint lock new-model notebook"
    tasks += " keys predict publish reproduce runs serve test track train tune ui wheelhouse"
    tasks += " accept checkout delete deploy diff"
    assert [name for name in tasks.split() if f"  {name} " not in listed] == []


def test_exit_codes_and_errors_come_through(tmp_path: Path) -> None:
    done = run(str(BIN / "invoke"), "train", "--set=training.epoch=3", f"--runs={tmp_path}")
    assert (done.returncode, "Did you mean training.epochs?" in done.stderr) == (2, True)


def test_a_run_is_deleted_and_restored_and_the_trash_is_emptied_by_the_task(tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "identity.json").write_text("{}")
    trash, where = tmp_path / ".trash", f"--runs={tmp_path}"
    words = ["first --also second --yes", "--restore first", "--yes third", "--restore third"]
    for word in [*words, "first -y", "--purge --run first --yes"]:
        done = run(str(BIN / "invoke"), "delete", *word.split(), where)
        assert (done.returncode, done.stderr) == (0, "")
    names = [sorted(path.name for path in folder.iterdir()) for folder in (tmp_path, trash)]
    assert names == [[".trash", "third"], ["second"]]
    done = run(str(BIN / "invoke"), "delete", "--purge", "--yes", where)
    assert (done.stdout, list(trash.iterdir())) == ("removed second\n", [])


def test_tasks_can_be_run_from_a_folder_below(tmp_path: Path) -> None:
    done = run(
        str(BIN / "invoke"), "config", "--model=apparel", cwd=str(ROOT / "lockstep" / "data")
    )
    assert "fashion-mnist" in done.stdout


@pytest.mark.slow
def test_the_hooks_pass_on_all_files_without_a_network() -> None:
    if not (ROOT / ".venv" / "bin" / "pre-commit").exists():
        pytest.fail("the hooks run in .venv; run the tests by ./workbench test")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    words = ["unshare", *user, "--net", str(ROOT / ".venv/bin/pre-commit"), "run", "--all-files"]
    done = run(*words)
    assert done.returncode == 0, done.stdout


def test_a_large_file_is_refused_before_a_commit(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(1 << 21))
    done = run(sys.executable, "environment/hooks.py", "large-files", str(tmp_path / "large"))
    assert (done.returncode, "2.0 MiB" in done.stdout) == (1, True)


def test_a_half_done_merge_is_refused_before_a_commit(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("one\n" + "<" * 7 + " HEAD\ntwo\n")
    done = run(sys.executable, "environment/hooks.py", "merged", str(page))
    assert (done.returncode, done.stdout.partition(": ")[0]) == (1, f"{page}:2")


@pytest.mark.slow
def test_the_package_can_be_built_with_its_recipes_and_its_console_script(tmp_path: Path) -> None:
    """``pip install .``, its dependencies aside, which are those of this environment."""
    copy = tmp_path / "clone"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "lockstep", copy / "project")
    made = run(sys.executable, "-m", "venv", "--system-site-packages", str(tmp_path / "venv"))
    assert made.returncode == 0, made.stderr
    python = tmp_path / "venv" / "bin" / "python"
    done = run(str(python), "-m", "pip", "install", "-q", "--no-deps", str(copy))
    assert done.returncode == 0, done.stderr
    code = "from project import models; print(home.here().recipe('digits', 'base'))"
    assert "site-packages" in run(str(python), "-c", code, cwd=str(tmp_path)).stdout
    shown = run(str(tmp_path / "venv" / "bin" / "lockstep"), "--help", cwd=str(tmp_path))
    assert "train" in shown.stdout
