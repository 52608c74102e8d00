"""Killed anywhere, by real signals: the same command ends with the same bits."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import xxhash

from lockstep.benchmarks.faults import (
    STEPS,
    WORDS,
    differences,
    kill_at_random,
    newest,
    run_in,
    said,
    start,
)
from lockstep.data.order import Order
from lockstep.records import trace
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, command


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert command(*WORDS, "--runs", str(folder)).returncode == 0
    (run,) = folder.glob("digits-*")
    return Run(run)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def start_outright(runs: Path, *more: str) -> subprocess.Popen[str]:
    """The command as it is given in a shell, with a group of processes of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "lockstep", *WORDS, *more, "--runs", str(runs)],
        start_new_session=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str] | ForkServerProcess, met: Callable[[], object]) -> None:
    """Until that is so; a process that ended before is found out by what follows."""
    ended = process.poll if isinstance(process, subprocess.Popen) else lambda: process.exitcode
    while ended() is None and not met():
        time.sleep(0.001)


def finished(runs: Path) -> Run:
    """The run, after the same command once more."""
    process = start(runs)
    process.join()
    assert (process.exitcode, "weights sha256" in said(runs).read_text()) == (0, True)
    run = run_in(runs)
    assert run
    return run


@pytest.mark.slow
def test_killed_many_times_at_random_it_ends_with_the_same_bits(
    tmp_path: Path,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
) -> None:
    """Several kills to a training; each time it goes on at the newest checkpoint that was there."""
    seed = random.SystemRandom().randrange(10**6)
    print("seed of this test:", seed)
    kills = 500 if pytestconfig.getoption("full") else 20
    tally = kill_at_random(kills, seed, tmp_path)
    assert (tally.differing, tally.kills) == ([], kills)
    record_property("times", kills)
    assert tally.kills > tally.trainings


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_so_and_the_same_command_goes_on(
    runs: Path, undisturbed: Run, number: int, code: int
) -> None:
    process = start_outright(runs)
    wait_for(process, lambda: newest(runs) >= 4)
    process.send_signal(number)
    _, words = process.communicate()
    run = run_in(runs)
    assert run
    steps = [int(path.name) for path in run.folder.glob("checkpoints/0*")]
    assert (process.returncode, "run the same command to resume" in words) == (code, True)
    assert f"stopped at step {max(steps)} of {STEPS}, saved" in words
    assert run.state == f"stopped at step {max(steps)}"
    assert differences(finished(runs), undisturbed) == []


@pytest.mark.slow
def test_sigterm_while_a_checkpoint_is_written_spoils_neither(runs: Path, undisturbed: Run) -> None:
    for _ in range(4):
        process = start(runs)
        wait_for(process, lambda: list(runs.glob("digits-*/checkpoints/.*.part")))
        process.terminate()
        process.join()
        words = said(runs).read_text()
        assert (process.exitcode, "saved; run the same command" in words) == (143, True), words
        run = run_in(runs)
        assert run and f"{run.state} of {STEPS}" in words
        assert list(run.folder.rglob(".*")) == []
    assert differences(finished(runs), undisturbed) == []


@pytest.mark.slow
def test_ctrl_c_reaches_the_loaders_too_and_still_saves(runs: Path, undisturbed: Run) -> None:
    process = start_outright(runs, "training.loaders=2")
    wait_for(process, lambda: newest(runs) >= 4)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert differences(finished(runs), undisturbed) == []


@pytest.mark.slow
@pytest.mark.parametrize("last", ["weights.safetensors", "checkpoints/00000064", "report.html"])
def test_killed_between_the_last_step_and_the_receipt_it_writes_the_same_receipt(
    runs: Path, undisturbed: Run, last: str
) -> None:
    process = start(runs)
    wait_for(process, lambda: list(runs.glob(f"digits-*/{last}")))
    process.kill()
    process.join()
    assert differences(finished(runs), undisturbed) == []


@pytest.mark.slow
def test_of_two_at_once_one_trains_and_the_other_waits_and_reports(
    runs: Path, undisturbed: Run
) -> None:
    first = start(runs)
    wait_for(first, lambda: newest(runs) >= 2)
    os.kill(first.pid or 0, signal.SIGSTOP)  # so that it cannot end before the second comes
    second = start_outright(runs, "--json")
    assert second.stderr
    words = second.stderr.readline()
    os.kill(first.pid or 0, signal.SIGCONT)
    first.join()
    printed, _ = second.communicate()
    assert f"is held by process {first.pid}; waiting" in words
    assert (first.exitcode, second.returncode) == (0, 0)
    assert json.loads(printed)["results"] == undisturbed.finished_receipt()["results"]


@pytest.mark.slow
def test_a_holder_that_dies_leaves_the_run_to_the_one_that_waits(
    runs: Path, undisturbed: Run
) -> None:
    first = start(runs)
    wait_for(first, lambda: newest(runs) >= 2)
    os.kill(first.pid or 0, signal.SIGSTOP)
    second = start_outright(runs)
    assert second.stderr
    assert "waiting" in second.stderr.readline()
    first.kill()
    first.join()
    second.communicate()
    assert second.returncode == 0
    assert differences(finished(runs), undisturbed) == []


@pytest.mark.slow
def test_each_epoch_saw_each_sample_once_also_after_a_kill(runs: Path) -> None:
    """The data receipt, worked out from true permutations alone, is that of the resumed run."""
    process = start(runs)
    wait_for(process, lambda: newest(runs) >= 10)  # in the middle of the second epoch
    process.kill()
    process.join()
    run = finished(runs)
    seen = run.finished_receipt()["results"]["data"]
    for epoch in range(8):
        order = Order(500, 42, epoch).at(0, 500)
        assert sorted(order) == list(range(500))
        steps = [xxhash.xxh3_64_intdigest(order[i : i + 64].data) for i in range(0, 500, 64)]
        column = b"".join(step.to_bytes(8, "little") for step in steps)
        assert seen[epoch] == {
            "epoch": epoch + 1,
            "steps": 8,
            "ids_xxh3": xxhash.xxh3_128_hexdigest(column),
        }
    assert len(trace.read(run.folder / "trace.bin")) == STEPS


@pytest.mark.slow
def test_a_task_that_is_killed_takes_its_training_along_in_good_order(tmp_path: Path) -> None:
    """``invoke train`` killed with SIGKILL: the training below it saves and ends."""
    task = [
        sys.executable,
        "-m",
        "invoke",
        "train",
        "--model=digits",
        "--seed=42",
        f"--runs={tmp_path}",
    ]
    process = subprocess.Popen([*task, "--set=training.checkpoint_every=2"], cwd=ROOT, text=True)
    wait_for(process, lambda: newest(tmp_path) >= 4)
    process.kill()
    process.wait()
    (folder,) = tmp_path.glob("digits-*")
    deadline = time.monotonic() + 30
    while Run(folder).state == "running" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert Run(folder).state.startswith("stopped at step")


@pytest.mark.slow
def test_suspended_and_continued_it_goes_on(runs: Path, undisturbed: Run) -> None:
    process = start(runs)
    wait_for(process, lambda: newest(runs) >= 4)
    os.kill(process.pid or 0, signal.SIGSTOP)
    time.sleep(0.2)
    os.kill(process.pid or 0, signal.SIGCONT)
    process.join()
    assert process.exitcode == 0
    assert differences(finished(runs), undisturbed) == []


@pytest.mark.skipif(
    not shutil.which("faketime") and "LOCKSTEP_CI" not in os.environ,
    reason="faketime is not installed; in CI it is",
)
@pytest.mark.slow
def test_a_clock_set_back_by_two_days_changes_nothing(runs: Path, undisturbed: Run) -> None:
    process = start(runs)
    wait_for(process, lambda: newest(runs) >= 10)
    process.kill()
    process.join()
    words = [sys.executable, "-m", "lockstep", *WORDS, "--runs", str(runs)]
    done = subprocess.run(["faketime", "-f", "-2d", *words], cwd=ROOT, capture_output=True)
    assert (done.returncode, b"resumes at step" in done.stderr) == (0, True), done.stderr
    run = run_in(runs)
    assert run and differences(run, undisturbed) == []
    ended = [run.finished_receipt()["timing"]["finished"] for run in (run, undisturbed)]
    assert ended[0] < ended[1]
