"""Killed anywhere, by real signals: the same command ends with the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from project.data.order import Order
from project.records import trace
from project.records.receipt import Run
from tests.conftest import ROOT, command

STEPS = 64  # 8 epochs of 8: long enough to be met in the middle
WORDS = (
    "train",
    "digits/base",
    "--seed=42",
    "training.epochs=8",
    "training.checkpoint_every=2",
    "data.limit=500",
)
SAME = ("weights.safetensors", "preprocess.json", "trace.bin", "metrics.jsonl", "identity.json")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert command(*WORDS, "--runs", str(folder)).returncode == 0
    (run,) = folder.glob("digits-*")
    return Run(run)


def start(runs: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "project", *WORDS, *more, "--runs", str(runs)],
        start_new_session=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(runs: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of that step or a later one is there."""
    while process.poll() is None:
        names = [path.name for path in runs.glob("digits-*/checkpoints/*")]
        if any(name.isdigit() and int(name) >= step for name in names):
            return
        time.sleep(0.002)


def finished(runs: Path) -> Run:
    done = command(*WORDS, "--runs", str(runs))
    assert (done.returncode, "weights sha256" in done.stdout) == (0, True), done.stderr
    (run,) = runs.glob("digits-*")
    return Run(run)


def assert_same(run: Run, other: Run) -> None:
    for name in SAME:
        assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    receipts = [run.receipt, other.receipt]
    assert receipts[0] and receipts[1]
    assert receipts[0]["results"] == receipts[1]["results"]
    left = [path.name for path in run.folder.rglob(".*")]
    assert left == []


@pytest.mark.slow
def test_killed_five_times_at_random_it_ends_with_the_same_bits(
    tmp_path: Path, undisturbed: Run
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print("seed of this test:", seed)
    chance = random.Random(seed)
    killed = 0
    while killed < 5:
        process = start(tmp_path)
        wait_for_step(tmp_path, chance.randrange(STEPS), process)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
        killed += 1
    assert_same(finished(tmp_path), undisturbed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_so_and_the_same_command_goes_on(
    tmp_path: Path, undisturbed: Run, number: int, code: int
) -> None:
    process = start(tmp_path)
    wait_for_step(tmp_path, 4, process)
    process.send_signal(number)
    _, said = process.communicate()
    (run,) = tmp_path.glob("digits-*")
    steps = [int(path.name) for path in run.glob("checkpoints/0*")]
    assert (process.returncode, "run the same command to go on" in said) == (code, True)
    assert f"stopped at step {max(steps)} of {STEPS}, saved" in said
    assert Run(run).state == f"stopped at step {max(steps)}"
    assert_same(finished(tmp_path), undisturbed)


def test_ctrl_c_reaches_the_loaders_too_and_still_saves(tmp_path: Path, undisturbed: Run) -> None:
    process = start(tmp_path, "training.loaders=2")
    wait_for_step(tmp_path, 4, process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert_same(finished(tmp_path), undisturbed)


def test_killed_between_weights_and_receipt_it_writes_the_same_receipt(
    tmp_path: Path, undisturbed: Run
) -> None:
    process = start(tmp_path)
    while process.poll() is None and not list(tmp_path.glob("digits-*/weights.safetensors")):
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert_same(finished(tmp_path), undisturbed)


def test_of_two_at_once_one_trains_and_the_other_waits_and_reports(
    tmp_path: Path, undisturbed: Run
) -> None:
    first = start(tmp_path)
    wait_for_step(tmp_path, 2, first)
    first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second comes
    second = start(tmp_path, "--json")
    assert second.stderr
    said = second.stderr.readline()
    first.send_signal(signal.SIGCONT)
    first.communicate()
    printed, _ = second.communicate()
    assert f"is held by process {first.pid}; waiting" in said
    assert (first.returncode, second.returncode) == (0, 0)
    assert json.loads(printed)["results"] == (undisturbed.receipt or {})["results"]


def test_each_epoch_saw_each_sample_once_also_after_a_kill(tmp_path: Path) -> None:
    """The data receipt, worked out from true permutations alone, is that of the resumed run."""
    process = start(tmp_path)
    wait_for_step(tmp_path, 10, process)  # in the middle of the second epoch
    process.kill()
    process.communicate()
    run = finished(tmp_path)
    seen = (run.receipt or {})["results"]["data"]
    import xxhash

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


def test_a_task_that_is_killed_takes_its_training_along_in_good_order(tmp_path: Path) -> None:
    """``invoke train`` killed with SIGKILL: the training below it saves and ends."""
    task = [sys.executable, "-m", "invoke", "train", "--seed=42", f"--runs={tmp_path}"]
    process = subprocess.Popen([*task, "--set=training.checkpoint_every=2"], cwd=ROOT)
    wait_for_step(tmp_path, 4, process)  # type: ignore[arg-type]
    process.kill()
    process.wait()
    (folder,) = tmp_path.glob("digits-*")
    deadline = time.monotonic() + 30
    while Run(folder).state == "running" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert Run(folder).state.startswith("stopped at step")


def test_suspended_and_continued_it_goes_on(tmp_path: Path, undisturbed: Run) -> None:
    process = start(tmp_path)
    wait_for_step(tmp_path, 4, process)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGCONT)
    process.communicate()
    assert process.returncode == 0
    assert_same(finished(tmp_path), undisturbed)
