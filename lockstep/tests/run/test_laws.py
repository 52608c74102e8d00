"""Laws that only whole trainings of brought models show: nothing of a state is lost at a stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.ground import home
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import ModelError
from lockstep.ground.place import Place
from lockstep.run.level import surroundings_of
from lockstep.tests.projects import NETWORK, Bring, Project

PREPROCESS = (home.ENGINE / "examples" / "models" / "digits" / "preprocess.py").read_text()
PREPROCESS = PREPROCESS.replace("import numpy", "import os\n\nimport numpy", 1)
MEAN = "        mean, deviation = float(inputs.mean())"
SHIFT = '''        """Each picture moved by up to ``shift`` pixels, in training only."""'''
AUGMENTED = PREPROCESS.replace(SHIFT, "        inputs = inputs * float(np.random.rand())")
NORMALISED = NETWORK.replace("nn.ReLU())\n", "nn.ReLU(), nn.BatchNorm1d(16))\n")
NOISY = NETWORK.replace(
    "    inputs, labels = batch\n",
    "    inputs, labels = batch\n    if not torch.is_grad_enabled():\n"
    "        inputs = inputs + torch.randn_like(inputs)\n",
)
IN_TURN = NETWORK.replace("import torch\n", "import itertools\n\nimport torch\n", 1).replace(
    "    def forward(self, inputs):\n",
    "    def forward(self, inputs):\n        inputs = inputs * next(TURNS)\n",
)


def train(project: Project, *words: str) -> "subprocess.CompletedProcess[str]":
    """Train the brought model in a process of its own, 80 examples."""
    folder = project.home.folder.parent
    paths = os.pathsep.join([str(folder), str(home.ENGINE.parent)])
    return subprocess.run(
        [sys.executable, "-m", "lockstep", "train", "brought/base", "data.limit=80", *words],
        cwd=folder,
        env=os.environ | {home.PROJECT: project.package, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "settings",
    [
        ("training.average=0.9", "training.weight_decay=0.1"),
        pytest.param(("training.optimizer=sgd", "training.clip=0.5"), marks=pytest.mark.slow),
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
    project = bring(model=f"{IN_TURN}\n\nTURNS = itertools.cycle([1, 2, 3, 4])\n")
    with pytest.raises(ModelError, match="has other bits when it is computed again"):
        project.train(place)


def test_chance_in_an_evaluation_is_the_same_each_time(bring: Bring, place: Place) -> None:
    """Or the last evaluation would differ from that of its epoch, and lower the level."""
    run = bring(model=NOISY).train(place)
    lowered = run.finished_receipt()["level"]["lowered"]
    assert [reason for reason in lowered if reason.startswith("validation")] == []


def test_a_model_that_reads_the_environment_lowers_the_level_by_name(
    bring: Bring, place: Place
) -> None:
    text = f"import os\n{NETWORK}".replace(
        "self.classifier(self", "float(os.environ.get('GAIN', 1)) * self.classifier(self"
    )
    project = bring(model=text)
    level = project.train(place).finished_receipt()["level"]
    name = f"{project.package}/models/brought/model.py"
    assert level == {
        "promise": "same bits on this machine",
        "lowered": [f"{name}: reads os.environ, which is in no identity"],
    }


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("import os\nGAIN = os.environ['GAIN']", ["os.environ"]),
        ("import os.path\nGAIN = os.environ['GAIN']", ["os.environ"]),
        ("import os as system\nGAIN = system.getenv('GAIN')", ["os.getenv"]),
        ("from os import environ as surroundings", ["os.environ"]),
        ("import os\nHERE = os.path.dirname(__file__)", []),
        ("from acme import os\nGAIN = os.environ", []),
        ("from .os import environ", []),
        (
            "import os, time\nODD = (os.getpid() + time.time_ns()) % 2",
            ["os.getpid", "time.time_ns"],
        ),
        ("from datetime import datetime\nHOUR = datetime.now().hour", ["datetime.datetime.now"]),
        ("import datetime as d\nDAY = d.date.today().day", ["datetime.date.today"]),
        ("from datetime import timedelta\nWEEK = timedelta(7)", []),
        ("import socket\nNAME = socket.gethostname()", ["socket.gethostname"]),
        ("from platform import machine", ["platform.machine"]),
        ("import time\ntime.sleep(0)", []),
    ],
)
def test_reading_the_surroundings_shows_in_the_source(text: str, reads: list[str]) -> None:
    names = ("lockstep/examples/models/mine/model.py", "lockstep/ground/place.py")
    found = surroundings_of(dict.fromkeys(names, text.encode()))
    wanted = {f"{names[0]}: reads {name}, which is in no identity" for name in reads}
    assert found == wanted


@pytest.mark.slow
def test_the_order_of_a_set_is_the_same_in_each_process(
    bring: Bring, tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = "self.scales = [float(len(word)) for word in {'a', 'bcd', 'efghi', 'jklmnop'}]"
    text = NETWORK.replace(
        "        self.classifier", f"        {order}\n        self.classifier", 1
    ).replace("self.classifier(self", "self.scales[0] * self.classifier(self")
    project, receipts = bring(model=text), []
    monkeypatch.setenv("LOCKSTEP_DATA", str(data_folder))
    for seed in ("1", "2", "random"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setenv("LOCKSTEP_RUNS", str(tmp_path / seed))
        done = train(project, "training.epochs=1")
        assert done.returncode == 0, done.stderr
        (path,) = (tmp_path / seed).glob("*/receipt.json")
        receipts.append(json.loads(path.read_bytes())["results"])
    assert receipts[0] == receipts[1] == receipts[2]


@pytest.mark.slow
def test_workers_do_not_show_in_the_bits_of_a_brought_model(
    bring: Bring, tmp_path: Path, data_folder: Path
) -> None:
    project = bring(model=NORMALISED, preprocess=AUGMENTED)
    weights = set()
    for workers in (1, 2, 4):
        runs = tmp_path / f"runs-{workers}"
        done = train(project, f"--workers={workers}", "--runs", str(runs))
        assert done.returncode == 0, done.stderr
        (path,) = runs.glob("*/weights.safetensors")
        weights.add(digest_of(path))
    assert len(weights) == 1


@pytest.mark.slow
def test_a_worker_that_was_set_up_otherwise_is_refused(
    bring: Bring, tmp_path: Path, data_folder: Path
) -> None:
    project = bring(preprocess=PREPROCESS.replace(MEAN, f"{MEAN} + int(os.environ['RANK'])", 1))
    done = train(project, "--workers=2", "--runs", str(tmp_path / "runs"))
    assert done.returncode != 0
    assert "worker 1: its preprocessing differ from the first worker's" in done.stderr


@pytest.mark.slow
def test_settings_that_load_torch_before_the_profile_native_are_refused_by_their_file(
    bring: Bring, tmp_path: Path, data_folder: Path
) -> None:
    project = bring()
    path = project.model / "config.py"
    path.write_text(path.read_text().replace("\nfrom ", "\nimport torch\nfrom ", 1))
    runs = ("--runs", str(tmp_path / "runs"))
    native = train(project, "training.profile=native", *runs)
    assert native.returncode == 2
    assert native.stderr.startswith(f"error: {path}: loads torch, expected not to")
    assert train(project, *runs).returncode == 0


COMPILED = {
    "a part": NETWORK.replace("Linear(16, classes)", "Linear(16, classes)\n        self.compile()"),
    "forward": NETWORK.replace("    def forward", "    @torch.compile\n    def forward"),
    "loss": NETWORK.replace("def loss", "@torch.compile(dynamic=True)\ndef loss"),
    "in a step": NETWORK.replace("self.classifier(self", "torch.compile(self.classifier)(self"),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", list(COMPILED))
def test_a_model_that_is_compiled_is_refused_in_one_line_before_the_first_step(
    bring: Bring, place: Place, how: str
) -> None:
    done = train(bring(model=COMPILED[how]))
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert line.startswith("error: loss or Model: calls what torch.compile makes (model.py, line ")


@pytest.mark.slow
def test_what_is_compiled_and_never_called_is_nobodys_concern(bring: Bring) -> None:
    unused = "@torch.compile\ndef unused(inputs):\n    return inputs\n\n"
    assert train(bring(model=NETWORK.replace("def loss", f"{unused}def loss"))).returncode == 0
