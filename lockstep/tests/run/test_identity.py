"""What is part of a run's identity, and what is not; tried with a project that is not ours."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.ground import environment, wheels
from lockstep.ground.home import Home
from lockstep.records import source
from lockstep.records.run import Run, runs
from lockstep.run.distributions import loaded
from lockstep.tests.conftest import ROOT, copy_of_tracked_files

FILES = {
    "acme/__init__.py": "",
    "acme/models/__init__.py": "",
    "acme/models/rows/__init__.py": '''"""An LSTM that reads a picture row by row."""

from .inference import Predictor
from .network import Model, loss
from .config import Config
from ...text import scale
from ...text.scale import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss"]
''',
    "acme/models/rows/config.py": '''"""Settings."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """The size of the network."""

    hidden: int = setting(8, "units of the LSTM", low=1)
''',
    "acme/models/rows/network.py": '''"""The network."""

import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    """Inputs (n, 8, 8) to scores (n, classes)."""

    def __init__(self, config, classes):
        super().__init__()
        self.rows = nn.LSTM(8, config.hidden, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.last = nn.Linear(config.hidden, classes)

    def forward(self, inputs):
        if inputs.dim() != 3:
            raise ValueError("inputs: expected (n, 8, 8)")
        return self.last(self.dropout(self.rows(inputs)[0][:, -1]))


def loss(model, batch):
    """Cross-entropy."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)
''',
    "acme/models/rows/inference.py": '''"""Answers."""

import numpy as np

from lockstep.model import Picture, pictures
from lockstep.model import Predictor as Base

from ...text.scale import Preprocess
from .config import Config
from .network import Model


class Predictor(Base):
    """A picture of a digit to the digit."""

    parts = (Config, Preprocess, Model)
    takes = Picture(8, 8)

    def read(self, source):
        """Pixels (8, 8) of 0 to 16."""
        return np.rint(pictures.grey(source, (8, 8)) / 255 * 16).astype(np.uint8)
''',
    "acme/models/rows/bias.txt": "0\n",
    "acme/models/rows/README.md": "How we trained it.\n",
    "acme/models/rows/recipes/base.yaml": """data:
  name: digits
training:
  epochs: 2
  batch_size: 64
  workers: 1
  checkpoint_every: 2
""",
    "acme/text/__init__.py": '"""Shared by models."""\n',
    "acme/text/scale.py": '''"""Scaling, by a factor that a file beside says."""

from pathlib import Path

import numpy as np
import torch

from lockstep.model import pictures

FACTOR = float(Path(__file__).with_name("factor.txt").read_text())


class Preprocess:
    """Pixels to inputs."""

    def __init__(self, config, labels):
        self.config, self.labels = config, labels

    @classmethod
    def fit(cls, config, inputs, labels):
        return cls(config, labels)

    def __call__(self, raw):
        return torch.tensor(raw, dtype=torch.float32) * FACTOR

    def augment(self, inputs, generator):
        return inputs

    @staticmethod
    def show(example):
        return pictures.drawn((np.asarray(example) * 15.9375).astype(np.uint8))

    def state(self):
        return {"labels": self.labels}

    @classmethod
    def from_state(cls, state):
        from acme.models.rows.config import Config

        return cls(Config(**state["config"]), state["labels"])
''',
    "acme/text/factor.txt": "0.0625\n",
    "acme/unused.py": "OTHER = 1\n",
}


@pytest.fixture
def acme(tmp_path: Path) -> Home:
    """A project with one model, a package that it shares, and files that decide bits."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "acme" / "data").mkdir()
    shutil.copy(ROOT / "lockstep/examples/data/digits.yaml", tmp_path / "acme" / "data")
    return Home("acme", tmp_path / "acme")


def digests(home: Home) -> dict[str, str]:
    return source.digests(source.of_making(home, "rows"))


def changed(home: Home, name: str, edit: Callable[[str], str]) -> list[str]:
    """The files whose part in the identity an edit changes."""
    before, path = digests(home), home.folder.parent / name
    path.write_text(edit(path.read_text()))
    after = digests(home)
    return [name for name in sorted(before | after) if before.get(name) != after.get(name)]


def test_the_models_folder_and_what_it_imports_are_in_the_identity(acme: Home) -> None:
    ours = [name for name in digests(acme) if name.startswith("acme")]
    beside = {"acme/models/rows/README.md", "acme/models/rows/recipes/base.yaml", "acme/unused.py"}
    assert ours == sorted(FILES.keys() - beside)


def test_a_module_that_is_imported_by_a_call_with_its_name_is_followed() -> None:
    text = b"""
import importlib
from importlib import import_module
layers = import_module(".layers", __package__)
special = importlib.import_module("scipy.special")
maths = __import__("acme.maths")
"""
    assert source.imports(text, "acme.models.a") - {"importlib", "importlib.import_module"} == {
        *("acme.models.a.layers", "scipy.special", "acme.maths")
    }


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("acme/models/rows/network.py", lambda text: text.replace("Dropout(0.1)", "Dropout(0.2)")),
        ("acme/models/rows/config.py", lambda text: text.replace("setting(8", "setting(9")),
        ("acme/models/rows/bias.txt", lambda text: text + "1\n"),
        ("acme/text/scale.py", lambda text: text.replace("* FACTOR", "* FACTOR + 0")),
        ("acme/text/factor.txt", lambda _: "0.5\n"),
        ("acme/text/more.txt", lambda _: "read by name\n"),
    ],
)
def test_an_edit_that_can_change_bits_changes_the_identity(
    acme: Home, name: str, edit: Callable[[str], str]
) -> None:
    (acme.folder / "text" / "more.txt").touch() if "more" in name else None
    assert changed(acme, name, edit) == [name]


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("acme/models/rows/network.py", lambda text: "# a comment\n\n" + text),
        ("acme/models/rows/network.py", lambda text: text.replace("Cross-entropy.", "The loss.")),
        ("acme/models/rows/network.py", lambda text: text.replace("expected (n", "wanted (n")),
        ("acme/models/rows/recipes/base.yaml", lambda text: text.replace("2", "3")),
        ("acme/models/rows/README.md", str.upper),
        ("acme/unused.py", lambda text: text + "MORE = 2\n"),
    ],
)
def test_an_edit_that_can_change_no_bit_changes_no_identity(
    acme: Home, name: str, edit: Callable[[str], str]
) -> None:
    assert changed(acme, name, edit) == []


def test_the_text_of_an_error_counts_where_somebody_looks_at_errors(acme: Home) -> None:
    caught = "\ntry:\n    pass\nexcept ValueError as error:\n    FLAG = 'left' in str(error)\n"
    assert changed(acme, "acme/text/scale.py", lambda text: text + caught) != []
    name = "acme/models/rows/network.py"
    assert changed(acme, name, lambda text: text.replace("expected (n", "wanted (n")) == [name]


def test_a_docstring_counts_where_the_module_reads_it(acme: Home) -> None:
    name = "acme/text/scale.py"
    assert changed(acme, name, lambda text: text + "\nFACTOR += len(__doc__) * 0\n") == [name]
    assert changed(acme, name, lambda text: text.replace("Scaling,", "Scaled,")) == [name]


def test_of_the_engine_only_what_makes_bits_is_in_the_identity(acme: Home) -> None:
    parts = {Path(name).parts[1] for name in digests(acme) if name.startswith("lockstep/")}
    assert parts == {
        *("answers", "config", "data", "ground", "model.py", "program.py", "run", "training")
    }
    making = [name for name in digests(acme) if name.startswith(("lockstep/run", "lockstep/data"))]
    assert making == [
        *("lockstep/data/__init__.py", "lockstep/data/batches.py", "lockstep/data/dataset.py"),
        *("lockstep/data/order.py", "lockstep/data/sampling.py"),
        *("lockstep/run/__init__.py", "lockstep/run/making.py"),
    ]


def test_training_loads_no_engine_module_that_is_in_no_identity_before_it_ends(acme: Home) -> None:
    """What computes is in the closure: nothing else of data/ or training/ is called in a step."""
    code = """
import sys
from lockstep.ground import profiles
profiles.enter("portable")
import lockstep.run.making
print("\\n".join(sorted(name for name in sys.modules if name.startswith("lockstep"))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known = {name.removesuffix(".py").removesuffix("/__init__") for name in digests(acme)}
    paths = {name.replace(".", "/") for name in done.stdout.split()}
    assert paths - known == {"lockstep", "lockstep/ground/profiles"}


@pytest.mark.slow
def test_packages_are_those_that_are_loaded_while_bits_are_made(acme: Home, tmp_path: Path) -> None:
    names = source.third_party(source.of_making(acme, "rows"), "acme")
    packages = environment.packages()
    found = loaded(names, packages.locked, tmp_path)
    assert {"torch", "numpy"} <= {name for name, named in found.items() if named}
    assert {"boto3", "fastapi", "mlflow"} & found.keys() == set()
    locked = wheels.as_identity(found, packages.locked)
    assert locked["torch"][0] == environment.installed()["torch"]


@pytest.mark.slow
def test_packages_that_an_image_lacks_are_not_loaded_and_bring_no_others(tmp_path: Path) -> None:
    """As scikit-learn imports pandas where it is installed, and that python-dateutil."""
    everything = loaded(["sklearn.datasets", "pandas"], (), tmp_path)
    assert {"pandas", "python-dateutil", "six"} <= everything.keys()
    locked = environment.packages().locked
    assert {"python-dateutil", "six", "scikit-learn"} <= locked.keys()
    found = loaded(["sklearn.datasets"], locked, tmp_path)
    assert {"pandas", "python-dateutil", "six"} & found.keys() == set()
    assert found["scikit-learn"]


def train(
    home: Home, *words: str, recipe: str = "base", tree: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join([str(home.folder.parent), str(tree)])
    return subprocess.run(
        [sys.executable, "-m", "lockstep", "train", f"rows/{recipe}", "--seed", "5", *words],
        cwd=home.folder.parent,
        env=os.environ | {"LOCKSTEP_PROJECT": "acme", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_stopped_run_resumes_after_harmless_edits_and_train_names_what_parts_another(
    acme: Home, tmp_path: Path
) -> None:
    tree, kept = copy_of_tracked_files(tmp_path / "tree"), ["--runs", str(tmp_path / "runs")]
    whole = train(acme, "--runs", str(tmp_path / "whole"), tree=tree)
    assert whole.returncode == 0, whole.stderr
    assert train(acme, *kept, "--until", "7", tree=tree).returncode == 0
    for name, old, new in (
        ("records/report.py", "Learning curves", "Curves of learning"),
        ("training/loop.py", '"""The training loop."""', '"""The loop."""\n\n# a comment'),
        ("training/loop.py", "expected a finite number", "wanted a finite number"),
        ("cli/training.py", "test accuracy", "accuracy on the test split"),
    ):
        path = tree / "lockstep" / name
        text = path.read_text()
        path.write_text(text.replace(old, new))
    resumed = train(acme, *kept, tree=tree)
    assert (resumed.returncode, "step 7" in resumed.stderr) == (0, True), resumed.stderr
    (run,), (other,) = runs(tmp_path / "runs"), runs(tmp_path / "whole")
    weights = [one.finished_receipt()["results"]["weights_sha256"] for one in (run, other)]
    assert weights[0] == weights[1]

    path = acme.folder / "text" / "factor.txt"
    path.write_text("0.125\n")
    edited = train(acme, *kept, "training.lr=0.01", "--until", "1", tree=tree)
    (line,) = [line for line in edited.stderr.splitlines() if run.name in line]
    assert line == (
        f"new run: {run.name} (finished) has another setting (training.lr 0.001), another source "
        "(acme/text/factor.txt)"
    )


@pytest.mark.slow
def test_the_name_of_a_recipe_is_in_no_identity(acme: Home, tmp_path: Path) -> None:
    recipes = acme.folder / "models" / "rows" / "recipes"
    shutil.copy(recipes / "base.yaml", recipes / "same.yaml")
    kept = ["--runs", str(tmp_path / "runs"), "--until", "1"]
    assert train(acme, *kept).returncode == 0
    assert train(acme, *kept, recipe="same").returncode == 0
    found = {run.name.rpartition("-")[0]: run.identity for run in runs(tmp_path / "runs")}
    assert len(found) == 2
    assert json.dumps(found["rows-base-s5"]) == json.dumps(found["rows-same-s5"])


@pytest.mark.slow
def test_a_run_keeps_what_its_reproduction_needs(acme: Home, tmp_path: Path) -> None:
    assert train(acme, "--runs", str(tmp_path / "runs")).returncode == 0
    (run,) = runs(tmp_path / "runs")
    assert isinstance(run, Run)
    shutil.rmtree(acme.folder / "text")
    words = [sys.executable, "-m", "lockstep", "reproduce", str(run.folder), "--json"]
    words.append("--trust-code")  # the model is in no commit, and no longer here
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    variables = os.environ | {"LOCKSTEP_PROJECT": "acme", "PYTHONPATH": paths}
    done = subprocess.run(words, env=variables, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout or "{}").get("same")) == (0, True), done.stderr
