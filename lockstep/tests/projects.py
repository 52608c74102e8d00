"""Projects that are not ours, written into a folder: digits with another model or loss."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from lockstep.config.recipe import resolve
from lockstep.ground import home
from lockstep.ground.home import Home
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.run import Run

_NUMBERS = itertools.count()
_FOLDER = home.ENGINE / "examples"
NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F

class Model(nn.Module):
    def __init__(self, config, classes):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(16, classes)

    def forward(self, inputs):
        return self.classifier(self.dropout(self.features(inputs)))

def loss(model, batch):
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)
"""
Bring = Callable[..., "Project"]


class Project:
    """A project with one model, ``brought``, that has the data and the answers of digits."""

    def __init__(self, folder: Path, files: Mapping[str, str | bytes]):
        self.package = f"team{next(_NUMBERS)}"
        self.home = Home(self.package, folder / self.package)
        model = self.home.folder / "models" / "brought"
        model.mkdir(parents=True)
        (self.home.folder / "data").mkdir()
        for path in (self.home.folder, model.parent):
            (path / "__init__.py").touch()
        for path in (_FOLDER / "models" / "digits").glob("*.py"):
            (model / path.name).write_text(path.read_text())
        (model / "model.py").write_text(NETWORK)
        for path in (_FOLDER / "data").glob("*.yaml"):
            (self.home.folder / "data" / path.name).write_text(path.read_text())
        for name, text in files.items():
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            (model / name).write_bytes(text.encode() if isinstance(text, str) else text)
        self.model = model
        (model / "recipes").mkdir(exist_ok=True)
        (model / "recipes" / "base.yaml").write_text(
            "data: {name: digits}\n"
            "training: {workers: 1, epochs: 2, batch_size: 16, lr: 0.004, keep: last, "
            "checkpoint_every: 3}\n"
        )

    def train(self, place: Place, *overrides: str, runs: str = "runs", until: int = 0) -> Run:
        """Train in this process, 72 examples unless told otherwise."""
        from lockstep.run.story import run_experiment

        recipe, config = self.home.recipe("brought", "base"), self.home.config_of("brought")
        brief = ("data.limit=72", *overrides)
        experiment, _ = resolve("brought", recipe, config, seed=1, overrides=brief)
        where = replace(place, runs=place.runs.with_name(runs))
        run = run_experiment(experiment, where, Watch(), until)
        assert run
        return run


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bring:
    """Write a project with these files in its model's folder, and work in it."""

    def write(**files: str) -> Project:
        project = Project(tmp_path, {f"{name}.py": text for name, text in files.items()})
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv(home.PROJECT, project.package)
        return project

    return write
