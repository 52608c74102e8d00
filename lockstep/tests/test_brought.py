"""Models that are not ours, under all trials: the same bits, or one line that says why not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lockstep.ground import home
from lockstep.tests import brought, test_any_cpu
from lockstep.tests.conftest import ROOT
from lockstep.tests.projects import Project
from lockstep.training import selftest

pytestmark = pytest.mark.slow

BRIEF = ("data.limit=72", "training.batch_size=24", "training.epochs=4")
ANYWHERE = [name for name in brought.TRAINED if "LSTM" not in name]  # oneDNN's is not portable
WORKERS = (2, 1, 4, 8)  # one after the other, changed by each kill


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Train in a clone: a folder with the project's package in it."""
    (package,) = (path.parent.name for path in folder.glob("*/models"))
    variables = {home.PROJECT: package, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    return subprocess.Popen(
        [sys.executable, "-m", "lockstep", "train", "brought/base", "--seed=1", *BRIEF, *words],
        cwd=folder,
        env=os.environ | variables | {"LOCKSTEP_RUNS": str(folder / "runs")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def results(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("runs/*/receipt.json")
    found: dict[str, Any] = json.loads(path.read_bytes())["results"]
    return found


def newest(folder: Path) -> int:
    return max((int(p.name) for p in folder.glob("runs/*/checkpoints/0*")), default=0)


@pytest.mark.parametrize("name", brought.TRAINED)
def test_a_brought_model_has_the_same_bits_in_another_clone_after_kills_with_other_workers(
    tmp_path: Path, pytestconfig: pytest.Config, name: str
) -> None:
    files = {"recipes/base.yaml": RECIPE, **brought.TRAINED[name]}
    Project(tmp_path / "clone", files)
    shutil.copytree(tmp_path / "clone", tmp_path / "other")
    full = pytestconfig.getoption("full")
    kills = 20 if full else 1
    long = ["training.epochs=40"] if full else []  # so that there is something left to kill
    whole = start(tmp_path / "clone", *long)
    _, err = whole.communicate()
    assert whole.returncode == 0, err

    for number in range(kills):
        before = newest(tmp_path / "other")
        process = start(tmp_path / "other", *long, f"--workers={WORKERS[number % len(WORKERS)]}")
        while process.poll() is None and newest(tmp_path / "other") == before:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    last = start(tmp_path / "other", *long, f"--workers={WORKERS[kills % len(WORKERS)]}")
    _, err = last.communicate()
    assert last.returncode == 0, err
    assert results(tmp_path / "other") == results(tmp_path / "clone")


@pytest.mark.parametrize("name", brought.REFUSED)
def test_a_brought_model_that_breaks_a_law_is_refused_in_one_line(
    tmp_path: Path, name: str
) -> None:
    files, reason = brought.REFUSED[name]
    Project(tmp_path, files)
    process = start(tmp_path)
    _, err = process.communicate()
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (process.returncode, reason in line, "Traceback" in err) == (2, True, False), err
    assert list(tmp_path.glob("runs/*/receipt.json")) == []


def test_a_last_batch_that_leaves_one_example_in_a_shard_is_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    Project(tmp_path, brought.TRAINED["features of another run, trained on"])
    process = start(tmp_path, "training.batch_size=16")
    _, err = process.communicate()
    assert (process.returncode, "training.batch_size: the batch of step" in err) == (2, True), err


def test_a_brought_model_that_may_differ_on_other_cpus_says_so(tmp_path: Path) -> None:
    Project(tmp_path, {"recipes/base.yaml": RECIPE, **brought.TRAINED["LSTM with dropout"]})
    process = start(tmp_path)
    _, err = process.communicate()
    assert process.returncode == 0, err
    (path,) = tmp_path.glob("runs/*/receipt.json")
    level = json.loads(path.read_bytes())["level"]
    assert level["promise"] == "same bits on this machine"
    assert all("mkldnn_rnn_layer" in reason for reason in level["lowered"])


@pytest.mark.skipif(not test_any_cpu.QEMU, reason="no qemu-x86_64 (Debian: qemu-user)")
@pytest.mark.parametrize("name", ANYWHERE)
def test_a_brought_model_has_the_same_bits_on_other_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config, name: str
) -> None:
    number = ANYWHERE.index(name)
    cpus = [cpu for cpu in selftest.CPUS if cpu != "Skylake-Client"]
    if not pytestconfig.getoption("full"):
        if number % 3:
            pytest.skip("tried by --full")
        cpus = [cpus[number % 2]]
    project = Project(tmp_path, brought.TRAINED[name])
    monkeypatch.setenv(home.PROJECT, project.package)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = ("brought", *BRIEF)
    test_any_cpu.train(tmp_path / "here", 4, job)
    (here,) = tmp_path.glob("here/*/trace.bin")
    for cpu in cpus:
        test_any_cpu.train(tmp_path / cpu, 4, job, cpu=cpu)
        (there,) = tmp_path.glob(f"{cpu}/*/trace.bin")
        assert there.read_bytes() == here.read_bytes()


RECIPE = """
data: {name: digits}
training: {workers: 1, epochs: 4, lr: 0.004, keep: last, checkpoint_every: 1}
"""
