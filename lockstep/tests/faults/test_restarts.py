"""Workers that fail: what is said, how often, and how many times they are started again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.records.run import Run, runs
from lockstep.tests.conftest import ROOT, plain_environment
from lockstep.tests.projects import Bring, Project
from lockstep.tests.run.test_rehearsal import model

pytestmark = pytest.mark.slow

IMPORTS = "import os\nimport signal\nimport time\n\n"
SECOND = 'os.environ.get("RANK") == "1"'
# The steps of checkpoints so far; the names only, which no law forbids to look at.
NEWEST = "max((int(n) for n in os.listdir(os.environ['SAVED']) if n.isdigit()), default=0)"


def train(
    project: Project, runs: Path, *words: str, workers: int = 2, **variables: str
) -> "subprocess.CompletedProcess[str]":
    words = ("data.limit=72", "training.evaluation_batch=50", *words, f"--workers={workers}")
    return subprocess.run(
        [sys.executable, "-m", "lockstep", "train", "brought/base", *words, "--runs", str(runs)],
        cwd=ROOT,
        env=plain_environment()
        | {"PYTHONPATH": os.pathsep.join([str(project.home.folder.parent), str(ROOT)])}
        | variables,
        capture_output=True,
        text=True,
        timeout=240,
    )


def the_run(runs: Path) -> Run:
    (folder,) = runs.glob("brought-*")
    return Run(folder)


def weights(runs: Path) -> str:
    return the_run(runs).finished_receipt()["results"]["weights_sha256"]


def test_an_error_in_the_code_of_one_worker_is_shown_once_at_once(
    bring: Bring, tmp_path: Path
) -> None:
    wrong = f"    if {SECOND}:\n        raise KeyError('nothing of this name')\n"
    project = bring(model=IMPORTS + model(loss=wrong))
    done = train(project, tmp_path / "runs")
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(
        "error: loss or Model: KeyError: 'nothing of this name' (model.py, line"
    )
    assert ("Traceback" in done.stderr, "starting all again" in done.stderr) == (False, False)
    assert the_run(tmp_path / "runs").receipt is None


def test_an_error_of_another_worker_than_the_first_is_the_failure_of_the_run(
    bring: Bring, tmp_path: Path
) -> None:
    wrong = f"        if len(inputs) == 50 and {SECOND}:\n"
    wrong += "            raise KeyError('nothing of this name')\n"
    done = train(bring(model=IMPORTS + model(forward=wrong)), tmp_path / "runs")
    assert done.returncode == 2, done.stderr
    reason = done.stderr.splitlines()[-1].removeprefix("error: ")
    assert reason.startswith("output: KeyError: 'nothing of this name'")
    assert the_run(tmp_path / "runs").state == f"failed at step 3: {reason}"


def test_a_training_that_is_killed_in_its_rehearsal_is_no_run(bring: Bring, tmp_path: Path) -> None:
    killed = "    if os.environ.get('KILL'):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
    project = bring(model=IMPORTS + model(loss=killed))
    assert train(project, tmp_path / "runs", workers=1, KILL="yes").returncode == -9
    assert runs(tmp_path / "runs") == []
    assert train(project, tmp_path / "runs", workers=1).returncode == 0
    assert [run.state for run in runs(tmp_path / "runs")] == ["finished"]


def test_a_mistake_that_one_worker_finds_is_told_in_one_line(bring: Bring, tmp_path: Path) -> None:
    other = f"        if {SECOND}:\n            nn.init.zeros_(nn.Linear(1, 1).weight)\n"
    other += f"        self.register_buffer('who', torch.tensor([float({SECOND})]))\n"
    project = bring(model=IMPORTS + model(other))
    done = train(project, tmp_path / "runs")
    assert done.returncode == 2, done.stderr
    start, error = done.stderr.splitlines()
    assert start.endswith("starts of 10")
    assert error.startswith("error: worker 1: its first weights differ from the first worker's")


def test_a_worker_that_is_killed_again_and_again_is_given_up_in_one_line(
    bring: Bring, tmp_path: Path
) -> None:
    killed = f"        if len(inputs) == 50 and {SECOND}:\n"
    killed += "            os.kill(os.getpid(), signal.SIGKILL)\n"
    done = train(bring(model=IMPORTS + model(forward=killed)), tmp_path / "runs")
    assert done.returncode == 2
    again = "workers: worker 1 was killed by SIGKILL; starting all again from the last checkpoint"
    lines = done.stderr.splitlines()
    assert lines.count(again) == 3, done.stderr
    assert lines[-1].startswith(
        "error: workers: worker 1 was killed by SIGKILL 4 times without another checkpoint; "
    )
    assert [word for word in ("gloo", "Traceback", "/__w/") if word in done.stderr] == []
    assert the_run(tmp_path / "runs").state == "stopped at step 3"


def test_a_worker_that_is_killed_often_gets_to_the_end_as_long_as_there_is_progress(
    bring: Bring, tmp_path: Path
) -> None:
    """Killed by the second checkpoint after each start, so more often than is forgiven at once."""
    often = f"        if self.training and {SECOND} and 'SAVED' in os.environ:\n"
    often += f"            newest = {NEWEST}\n"
    often += "            start = int(os.environ.setdefault('START', str(newest)))\n"
    often += "            if newest > start:\n"
    often += "                os.kill(os.getpid(), signal.SIGKILL)\n"
    project = bring(model=IMPORTS + model(forward=often))
    every = ("training.checkpoint_every=1", "training.epochs=3")
    alone = train(project, tmp_path / "alone", *every, workers=1)
    assert alone.returncode == 0, alone.stderr
    assert train(project, tmp_path / "runs", *every, "--until=1").returncode == 0
    saved = the_run(tmp_path / "runs").folder / "checkpoints"
    done = train(project, tmp_path / "runs", *every, SAVED=str(saved))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was killed by SIGKILL; starting all again") >= 4
    assert weights(tmp_path / "runs") == weights(tmp_path / "alone")


def test_a_signal_to_one_worker_in_an_evaluation_stops_all(bring: Bring, tmp_path: Path) -> None:
    stop = f"        if len(inputs) == 50 and {SECOND}:\n"
    stop += "            if os.environ.pop('STOP', ''):\n"
    stop += "                os.kill(os.getpid(), signal.SIGTERM)\n"
    project = bring(model=IMPORTS + model(forward=stop))
    done = train(project, tmp_path / "runs", STOP="yes")
    assert done.returncode == 143
    assert "stopped at step 5 of 10, saved; run the same command to resume" in done.stderr
    assert train(project, tmp_path / "runs").returncode == 0
    assert train(project, tmp_path / "alone", workers=1).returncode == 0
    assert weights(tmp_path / "runs") == weights(tmp_path / "alone")


def test_a_worker_that_hangs_in_an_evaluation_is_noticed_after_patience(
    bring: Bring, tmp_path: Path
) -> None:
    hang = f"        if len(inputs) == 50 and {SECOND}:\n"
    hang += "            if not os.path.exists(os.environ['HUNG']):\n"
    hang += "                os.mkdir(os.environ['HUNG'])\n"
    hang += "                os.kill(os.getpid(), signal.SIGSTOP)\n"
    project = bring(model=IMPORTS + model(forward=hang))
    done = train(
        project,
        tmp_path / "runs",
        HUNG=str(tmp_path / "hung"),
        LOCKSTEP_PATIENCE="5",
    )
    assert (done.returncode, "starting all again" in done.stderr) == (0, True), done.stderr
    assert train(project, tmp_path / "alone", workers=1).returncode == 0
    assert weights(tmp_path / "runs") == weights(tmp_path / "alone")


def test_a_worker_that_is_slow_to_set_up_and_a_long_evaluation_are_waited_for(
    bring: Bring, tmp_path: Path
) -> None:
    """Twice as long as the patience each, but each shows that it is alive."""
    slow = f"        time.sleep(8 if {SECOND} else 0)\n"
    block = "        time.sleep(1.5 if torch.is_inference_mode_enabled() else 0)\n"
    project = bring(model=IMPORTS + model(slow, block))
    words = ("training.evaluation_batch=45", "training.epochs=1")
    done = train(project, tmp_path / "runs", *words, LOCKSTEP_PATIENCE="4")
    assert (done.returncode, "starting all again" in done.stderr) == (0, False), done.stderr
