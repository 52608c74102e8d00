"""Every example program under the trials of the laws: kills, workers, other CPUs, answers.

Few steps on little data, one run of each example for all of its trials.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lockstep.answers import golden
from lockstep.ground import home
from lockstep.loading import predictor
from lockstep.records.run import Run
from lockstep.tests import test_any_cpu
from lockstep.tests.conftest import EXAMPLES, ROOT

pytestmark = pytest.mark.slow

BRIEF = ("data.limit=72", "training.batch_size=24", "training.epochs=3")
MODELS = [name for name in EXAMPLES if name not in ("digits", "apparel", "tags")]
each = pytest.mark.parametrize("model", MODELS)


def lockstep(*words: str, runs: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lockstep", *words],
        cwd=ROOT,
        env=os.environ | {"LOCKSTEP_RUNS": str(runs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def said(*words: str, runs: Path) -> Any:
    """What a command answers as JSON."""
    process = lockstep(*words, "--json", runs=runs)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out)


def train(model: str, *words: str, runs: Path) -> subprocess.Popen[str]:
    every = ("--set", "training.checkpoint_every=1")
    brief = [word for setting in BRIEF for word in ("--set", setting)]
    return lockstep("train", f"{model}/base", "--seed=1", *brief, *every, *words, runs=runs)


Trained = Callable[[str], Run]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run of a model, trained without a stop by one worker."""
    known: dict[str, Run] = {}

    def run(model: str) -> Run:
        if model not in known:
            runs = tmp_path_factory.mktemp(model)
            process = train(model, "--workers=1", runs=runs)
            _, err = process.communicate()
            assert process.returncode == 0, err
            known[model] = Run(next(runs.glob(f"{model}-*")))
        return known[model]

    return run


@each
def test_an_example_that_is_killed_and_goes_on_with_other_workers_has_the_same_bits(
    tmp_path: Path, trained: Trained, model: str, pytestconfig: pytest.Config
) -> None:
    kills, workers = (20, (2, 1, 4, 8)) if pytestconfig.getoption("full") else (1, (2, 1))
    for number in range(kills):
        before = len(list(tmp_path.glob("*/checkpoints/0*")))
        process = train(model, f"--workers={workers[number % len(workers)]}", runs=tmp_path)
        while process.poll() is None and len(list(tmp_path.glob("*/checkpoints/0*"))) == before:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    last = train(model, f"--workers={workers[kills % len(workers)]}", runs=tmp_path)
    _, err = last.communicate()
    assert last.returncode == 0, err
    (folder,) = tmp_path.glob(f"{model}-*")
    receipts = trained(model).finished_receipt(), Run(folder).finished_receipt()
    assert receipts[0]["results"] == receipts[1]["results"]


@each
def test_an_example_is_evaluated_reproduced_and_bundled_with_the_same_answers(
    tmp_path: Path, trained: Trained, model: str
) -> None:
    run = trained(model)
    evaluated = said("evaluate", run.name, runs=run.folder.parent)
    assert evaluated["as_in_receipt"] is True
    again = said("reproduce", run.name, "--trust-code", runs=run.folder.parent)
    assert again["same"] is True
    made = said("bundle", run.name, "--output", str(tmp_path / "b.tar.gz"), runs=run.folder.parent)
    assert made["run"] == run.name
    whole, bundled = predictor(run), predictor(tmp_path / "b.tar.gz")  # both hold golden answers
    assert whole.golden
    rows = golden.examples(whole.golden)
    answers = whole.answers(rows)
    assert bundled.answers(rows) == answers
    assert [whole.answers([row])[0] for row in rows] == answers


@pytest.mark.skipif(not test_any_cpu.QEMU, reason="no qemu-x86_64 (Debian: qemu-user)")
@pytest.mark.parametrize("cpu", ["Haswell", "EPYC"])
def test_each_example_has_the_same_bits_on_other_cpus(tmp_path: Path, cpu: str) -> None:
    jobs = [(model, *BRIEF) for model in MODELS]
    test_any_cpu.train(tmp_path / "here", 2, *jobs)
    test_any_cpu.train(tmp_path / "there", 2, *jobs, cpu=cpu)
    traces = [
        {path.parent.name: path.read_bytes() for path in (tmp_path / place).glob("*/trace.bin")}
        for place in ("here", "there")
    ]
    assert len(traces[0]) == len(MODELS)
    assert [name for name in traces[0] if traces[0][name] != traces[1].get(name)] == []


def test_each_example_promises_every_cpu(trained: Trained) -> None:
    lowered = {model: trained(model).finished_receipt()["level"]["lowered"] for model in MODELS}
    assert {model: reasons for model, reasons in lowered.items() if reasons} == {}


def test_the_weights_that_examples_start_from_are_those_that_their_recipes_name(
    tmp_path: Path,
) -> None:
    small = ("model.width=8", "model.hidden=32", "--workers=1")
    process = lockstep("train", "digits/base", "--seed=42", *small, runs=tmp_path)
    _, err = process.communicate()
    assert process.returncode == 0, err
    weights = Run(next(tmp_path.glob("digits-*"))).folder / "weights.safetensors"
    for model in ("tuned", "lora"):
        folder = home.examples().folder_of(model)
        assert (folder / "digits.safetensors").read_bytes() == weights.read_bytes()
