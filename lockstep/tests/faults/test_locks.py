"""File systems whose locks do not hold: two trainings of one run, and one receipt that is true."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lockstep.benchmarks.faults import SAME, WORDS, newest, run_in
from lockstep.ground.errors import RunError
from lockstep.ground.files import Owner, owned
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, command, plain_environment

LYING = "import fcntl\nfcntl.flock = lambda *arguments: None\n"
NONE = """
import errno, fcntl

def refuse(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = refuse
"""


def start(runs: Path, folder: Path, text: str = LYING) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(text)
    return subprocess.Popen(
        [sys.executable, "-m", "lockstep", *WORDS, "--workers=1", "--runs", str(runs)],
        cwd=ROOT,
        env=plain_environment() | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_one_that_came_first_finds_out_and_leaves_the_other_its_name(tmp_path: Path) -> None:
    with owned(tmp_path) as first:
        first.check()
        with owned(tmp_path) as second:
            with pytest.raises(RunError, match=f"process {os.getpid()} on .* has begun to write"):
                first.check()
            second.check()
            first.leave()
            second.check()
        with pytest.raises(RunError, match="another process has begun to write this run too"):
            first.check()
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_one_that_was_killed_does_not_matter(tmp_path: Path) -> None:
    Owner(tmp_path)
    with owned(tmp_path) as owner:
        owner.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_of_two_trainings_of_a_run_one_ends_in_one_line_and_the_receipt_is_true(
    tmp_path: Path,
) -> None:
    done = command(*WORDS, "--runs", str(tmp_path / "alone"))
    assert done.returncode == 0, done.stderr
    alone, runs = run_in(tmp_path / "alone"), tmp_path / "runs"
    first = start(runs, tmp_path / "lying")
    while newest(runs) < 10 and first.poll() is None:
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)  # so that it has not ended when the second one comes
    second = start(runs, tmp_path / "lying")
    assert second.stderr
    while "resumes at step" not in (line := second.stderr.readline()):
        assert line
    first.send_signal(signal.SIGCONT)
    said = first.communicate()[1]
    second.communicate()
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert (first.returncode, second.returncode, "Traceback" in said) == (2, 0, False), said
    assert "has begun to write this run too, so the file system's locks do not hold" in error
    run = run_in(runs)
    assert run and alone
    assert_same(run, alone)


def assert_same(run: Run, other: Run) -> None:
    for name in SAME:
        assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    assert run.finished_receipt()["results"] == other.finished_receipt()["results"]


@pytest.mark.slow
def test_where_there_are_no_locks_it_says_so_and_trains(tmp_path: Path) -> None:
    process = start(tmp_path / "runs", tmp_path / "without", NONE)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert "its file system has no locks (No locks available); do not use it from two" in said


@pytest.mark.slow
def test_rows_that_another_process_added_are_never_sealed(tmp_path: Path) -> None:
    """Without any sign of an owner: what the trainer wrote is compared with what is there."""
    runs = tmp_path / "runs"
    process = start(runs, tmp_path / "lying")
    while newest(runs) < 20 and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    run = run_in(runs)
    assert run
    path = run.folder / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(path.read_bytes().splitlines(keepends=True)[0])
    process.send_signal(signal.SIGCONT)
    said = process.communicate()[1]
    assert (process.returncode, run.receipt, "Traceback" in said) == (2, None, False), said
    assert "metrics.jsonl: holds more or other rows than this process wrote" in said
    assert command(*WORDS, "--runs", str(runs)).returncode == 0
