"""Laws that only whole trainings of brought models show: nothing of a state is lost at a stop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.ground import home
from lockstep.ground.errors import ModelError
from lockstep.ground.place import Place
from lockstep.tests.projects import NETWORK, Bring

PREPROCESS = home.ENGINE / "examples" / "models" / "digits" / "preprocess.py"
NORMALISED = NETWORK.replace("nn.ReLU())\n", "nn.ReLU(), nn.BatchNorm1d(16))\n")
IN_TURN = NETWORK.replace("import torch\n", "import itertools\n\nimport torch\n", 1).replace(
    "    def forward(self, inputs):\n",
    "    def forward(self, inputs):\n        inputs = inputs * next(TURNS)\n",
)


@pytest.mark.parametrize(
    "settings",
    [
        ("training.average=0.9", "training.weight_decay=0.1"),
        ("training.optimizer=sgd", "training.clip=0.5"),
        ("training.lr=0", "training.keep=best"),  # so no epoch is better than the first
    ],
)
def test_state_of_every_kind_comes_back_after_a_stop(
    bring: Bring, place: Place, settings: tuple[str, ...]
) -> None:
    project = bring(model=NETWORK if "training.lr=0" in settings else NORMALISED)
    settings = ("data.limit=80", *settings)
    whole = project.train(place, *settings, runs="whole").finished_receipt()
    project.train(place, *settings, until=7)
    assert project.train(place, *settings).finished_receipt()["results"] == whole["results"]


def test_what_one_shard_leaves_for_the_next_is_refused(bring: Bring, place: Place) -> None:
    """A factor for each shard in turn, from where no attribute shows it, as many as are tried."""
    project = bring(model=f"{IN_TURN}\n\nTURNS = itertools.cycle([1, 2, 3, 4, 5, 6, 7, 8])\n")
    with pytest.raises(ModelError, match="has other bits when it is computed again"):
        project.train(place)


@pytest.mark.slow
def test_a_worker_that_was_set_up_otherwise_is_refused(
    bring: Bring, tmp_path: Path, data_folder: Path
) -> None:
    mean = "        mean, deviation = float(inputs.mean())"
    fitted = PREPROCESS.read_text().replace(mean, f"{mean} + int(os.environ['RANK'])", 1)
    project = bring(preprocess=fitted.replace("import numpy", "import os\n\nimport numpy", 1))
    words = ["train", "brought/base", "--workers=2", "--runs", str(tmp_path / "runs")]
    paths = os.pathsep.join([str(tmp_path), str(home.ENGINE.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "lockstep", *words],
        cwd=tmp_path,
        env=os.environ | {home.PROJECT: project.package, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "worker 1: its preprocessing differ from the first worker's" in done.stderr
