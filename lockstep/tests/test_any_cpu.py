"""Profile portable on other CPU models, emulated by qemu-user: the same bits."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT
from lockstep.training import selftest

QEMU = shutil.which("qemu-x86_64")
IN_CI = os.environ.get("CI") or os.environ.get("LOCKSTEP_CI")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not QEMU and not IN_CI, reason="no qemu-x86_64 (Debian: qemu-user)"),
]

DIGITS = ("digits", "data.limit=64", "training.batch_size=16", "training.epochs=1")
APPAREL = ("apparel", "data.limit=64", "training.batch_size=16")
STEPS = 4  # in an epoch of either
FILES = ("weights.safetensors", "trace.bin", "metrics.jsonl", "preprocess.json", "identity.json")

# What the verb train does, up to a step. (The end of a run needs scikit-learn and matplotlib, which
# an emulated CPU takes 20 s to import.)
CODE = """
import json, sys
from lockstep.ground import profiles
profiles.enter("portable")
import torch
from lockstep.ground import home
from lockstep.config.recipe import resolve
from lockstep.run.story import run_experiment
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch

runs, last, jobs = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])

for name, *overrides in jobs:
    recipe, config = home.here().recipe(name, "base"), home.here().config_of(name)
    experiment = resolve(name, recipe, config, seed=42, overrides=overrides)[0]
    run_experiment(experiment, Place.default(runs), Watch(), last)
print(json.dumps({"avx512": torch.cpu._is_avx512_supported()}))
"""


def train(runs: Path, last: int, *jobs: tuple[str, ...], cpu: str = "") -> dict[str, Any]:
    """Train up to a step (0 = the end), here or on an emulated CPU."""
    emulator = [QEMU or "qemu-x86_64", "-cpu", cpu] if cpu else []
    for _ in range(2):
        done = subprocess.run(
            [*emulator, sys.executable, "-c", CODE, str(runs), str(last), json.dumps(jobs)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        # The emulator itself crashed in one of some sixty trainings. A run resumes after that, too.
        if "qemu: uncaught target signal 11" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def stopped(runs: Path) -> dict[str, bytes]:
    """The files of apparel's run that has stopped: its fingerprints and its newest checkpoint."""
    run = only(runs, "apparel-*")
    newest = sorted(run.glob("checkpoints/0*"))[-1]
    files = (run / "identity.json", run / "trace.bin", *newest.iterdir())
    return {str(file.relative_to(runs)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of digits as this CPU makes it."""
    folder = tmp_path_factory.mktemp("native")
    train(folder, 0, DIGITS)
    return Run(only(folder, "digits-*"))


def assert_same(run: Run, other: Run) -> None:
    assert run.folder.name == other.folder.name
    for name in FILES:
        assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    receipts = run.finished_receipt(), other.finished_receipt()
    assert receipts[0]["results"] == receipts[1]["results"]
    # Both CPUs passed the self-test, and all operations were verified ones.
    assert receipts[0]["level"] == receipts[1]["level"]
    assert receipts[0]["level"]["lowered"] == []


def test_a_whole_run_on_another_cpu_model_has_the_same_bits(tmp_path: Path, native: Run) -> None:
    assert train(tmp_path, 0, DIGITS, cpu="Haswell") == {"avx512": False}
    assert_same(Run(only(tmp_path, "digits-*")), native)


@pytest.mark.parametrize(("cpu", "more"), [("Skylake-Client", ()), ("EPYC", (APPAREL,))])
def test_a_run_may_move_from_one_cpu_model_to_another(
    cpu: str, more: tuple[tuple[str, ...], ...], tmp_path: Path, native: Run
) -> None:
    """Begun there, finished here; and a residual network with batch norm stands where it should."""
    last = STEPS - 1
    there = train(tmp_path / "there", last, DIGITS, *more, cpu=cpu)
    assert there == {"avx512": False}
    run = Run(only(tmp_path / "there", "digits-*"))
    assert run.state == f"stopped at step {last}"
    train(tmp_path / "there", 0, DIGITS)
    assert_same(run, native)
    assert run.finished_receipt()["timing"]["resumed_at_step"] == last
    if more:
        train(tmp_path / "here", last, *more)
        assert stopped(tmp_path / "there") == stopped(tmp_path / "here")


PREPROCESSING = """
import hashlib, sys
from lockstep.ground import profiles
profiles.enter("portable")
import numpy as np
from scipy import linalg
values = np.random.default_rng(0).standard_normal((257, 129))
brief = values.astype(np.float32)
for result in (np.log(abs(values)), np.exp(brief), np.power(abs(brief), 0.3), np.cbrt(values),
               np.log1p(abs(brief)), values @ values.T, brief @ brief[0], linalg.svd(values)[1],
               np.linalg.eigh(values[:50] @ values[:50].T)[1], brief.sum(0), brief.std(1)):
    print(hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("cpu", selftest.CPUS)
def test_numpy_and_scipy_have_the_same_bits_in_the_portable_profile(cpu: str) -> None:
    """What preprocessing computes: logarithms, powers, products, components."""
    words = [sys.executable, "-c", PREPROCESSING]
    options: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
    here = subprocess.run(words, **options).stdout
    assert subprocess.run([QEMU or "qemu-x86_64", "-cpu", cpu, *words], **options).stdout == here
