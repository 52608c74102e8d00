"""Tiny models of each kind, as a team writes them: what they take, what they give, their data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.answers import golden
from lockstep.answers.predictor import Predictor
from lockstep.config.recipe import resolve
from lockstep.data.dataset import Dataset, Split
from lockstep.ground import home
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.loading import Served
from lockstep.program import Kind
from lockstep.records.run import Run
from lockstep.run.making import Setup
from lockstep.run.story import run_experiment
from lockstep.tests.projects import Project
from lockstep.training.determinism import enforce
from lockstep.training.distributed import ALONE

_CONFIG = """
from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    hidden: int = setting(8, "units", low=1)
"""
_PREPROCESS = """
import numpy as np
import torch


class Preprocess:
    def __init__(self, labels):
        self.labels = labels

    @classmethod
    def fit(cls, config, inputs, labels):
        return cls(labels)

    def __call__(self, raw):
        return {encode}

    def augment(self, inputs, generator):
        return inputs

    @staticmethod
    def show(example):
        from lockstep.model import pictures

        return {show}

    def state(self):
        return {{"labels": self.labels}}

    @classmethod
    def from_state(cls, state):
        return cls(state["labels"])
"""
_MODEL = """
import torch
from torch import nn
from torch.nn import functional as F


class Model(nn.Module):
    def __init__(self, config, classes):
        super().__init__()
        self.layer = {layer}

    def forward(self, inputs):
        return {forward}


def loss(model, batch):
    inputs, target = batch
    return {loss}
"""
_PREDICTOR = """
from lockstep.model import Numbers, Picture, Predictor as BasePredictor, Tensor, Text

from .config import Config
from .model import Model
from .preprocess import Preprocess


class Predictor(BasePredictor):
    parts = (Config, Preprocess, Model)
    takes = {takes}
{more}
"""
_OUTPUT = """

def output(model, inputs):
    return 100_000 + 50_000 * model(inputs)
"""
_WORDS = """
    gives = "text"

    def answer(self, inputs):
        last = self.model(inputs).argmax(1)
        return ["abcdefgh"[number] * 3 for number in last.tolist()]
"""


@dataclass(frozen=True)
class Example:
    """A kind of model: its data, and the files of its folder."""

    kind: Kind
    labels: tuple[str, ...]
    inputs: np.ndarray
    target: np.ndarray
    files: Mapping[str, str]
    columns: tuple[str, ...] = ()

    def dataset(self) -> Dataset:
        """The data, the same in each split."""
        split = Split(self.inputs, self.target)
        digest = sha256(self.inputs.tobytes() + self.target.tobytes()).hexdigest()
        splits = dict.fromkeys(("train", "validation", "test"), split)
        return Dataset(
            "tiny", self.labels, digest, splits, f"tiny@{digest}", self.kind, self.columns
        )


def _files(
    takes: str, encode: str, layer: str, forward: str, loss: str, show: str = "''", more: str = "",
    output: str = "",
) -> dict[str, str]:  # fmt: skip
    return {
        "__init__.py": "from .config import Config\nfrom .inference import Predictor\n"
        "from .model import Model, loss\nfrom .preprocess import Preprocess\n"
        + ("from .model import output\n" if output else ""),
        "config.py": _CONFIG,
        "preprocess.py": _PREPROCESS.format(encode=encode, show=show),
        "model.py": _MODEL.format(layer=layer, forward=forward, loss=loss) + output,
        "inference.py": _PREDICTOR.format(takes=takes, more=more),
    }


_DRAW = np.random.default_rng(7)
_GREY = _DRAW.integers(0, 256, (48, 6, 6), np.uint8)
_COLOURS = _DRAW.integers(0, 256, (48, 6, 6, 3), np.uint8)
_ROWS = _DRAW.normal(size=(48, 3)).astype(np.float32)
EXAMPLES = {
    "numbers": Example(
        "numbers",
        ("price",),
        _ROWS,
        100_000 + 50_000 * _ROWS.sum(1, keepdims=True),
        _files(
            "Numbers()",
            "torch.from_numpy(raw)",
            "nn.Linear(3, classes)",
            "self.layer(inputs)",
            "F.mse_loss(model(inputs), (target - 100_000) / 50_000)",
            output=_OUTPUT,
        ),
        ("rooms", "area", "age"),
    ),
    "labels": Example(
        "labels",
        ("bright", "red"),
        _COLOURS,
        np.stack((_COLOURS.mean((1, 2, 3)) > 127, _COLOURS[..., 0].mean((1, 2)) > 127), 1).astype(
            np.uint8
        ),
        _files(
            "Picture(6, 6, colour=True)",
            "torch.from_numpy(raw).float().div(255).flatten(1)",
            "nn.Linear(108, classes)",
            "self.layer(inputs)",
            "F.binary_cross_entropy_with_logits(model(inputs), target.float())",
            "pictures.drawn(example)",
        ),
    ),
    "mask": Example(
        "mask",
        ("ground", "stroke", "edge"),
        _GREY,
        (_GREY > 127).astype(np.uint8),
        _files(
            "Picture(6, 6)",
            "torch.from_numpy(raw).float().div(255).unsqueeze(1)",
            "nn.Conv2d(1, classes, 3, padding=1)",
            "self.layer(inputs)",
            "F.cross_entropy(model(inputs), target.long())",
            "pictures.drawn(example)",
        ),
    ),
    "text": Example(
        "none",
        (),
        _DRAW.integers(97, 105, (48, 12), np.uint8),
        np.zeros((48, 0), np.float32),
        _files(
            "Text(12)",
            "torch.from_numpy(raw).long()",
            "nn.Embedding(256, 8)",
            "self.layer(inputs).mean(1)",
            "F.cross_entropy(model(inputs), inputs[:, -1] % 8)",
            "bytes(example).decode()",
            _WORDS,
        ),
    ),
    "vector": Example(
        "none",
        (),
        _DRAW.normal(size=(48, 2, 3)).astype(np.float32),
        np.zeros((48, 0), np.float32),
        _files(
            "Tensor((2, 3))",
            "{'left': torch.from_numpy(raw[:, 0]), 'right': torch.from_numpy(raw[:, 1])}",
            "nn.Linear(6, 4)",
            "self.layer(torch.cat((inputs['left'], inputs['right']), 1))",
            "model(inputs).square().mean()",
        ),
    ),
}


class Kinds:
    """Models of each kind in projects of their own, untrained but kept as a run keeps them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.monkeypatch = folder, monkeypatch

    def project(self, name: str, **files: str) -> Project:
        """A project with a model of a kind, in which one works from now on."""
        folder = self.folder / name
        changed = {f"{file}.py": text for file, text in files.items()}
        project = Project(folder, {**EXAMPLES[name].files, **changed})
        self.monkeypatch.syspath_prepend(str(folder))
        self.monkeypatch.setenv(home.PROJECT, project.package)
        return project

    def predictor(self, name: str, **files: str) -> Any:
        """The Predictor of a kind, made of the bytes that a run keeps, with golden answers."""
        return predictor(self.project(name, **files), name)

    def served(self, name: str) -> Served:
        """What a server has of it."""
        return served(self.predictor(name))


def predictor(project: Project, name: str) -> Predictor:
    """The Predictor of a project's model, made of the bytes that a run keeps."""
    recipe, config = project.home.recipe("brought", "base"), project.home.config_of("brought")
    experiment, _ = resolve("brought", recipe, config, seed=1, overrides=())
    enforce("portable", "cpu")  # as whoever opens a run
    setup = Setup(experiment, dataset := EXAMPLES[name].dataset(), ALONE)
    stored, weights = setup.stored(), setup.weights()
    found = project.home.module("brought").Predictor.of(stored, weights)
    found.golden = json.loads(
        golden.make("brought", stored, weights, dataset.splits["test"].inputs)
    )
    found.narrow(golden.examples(found.golden))
    return found


def served(predictor: Predictor) -> Served:
    """What a server has of a Predictor."""
    about = {
        "run": "tiny-base-s1",
        "weights_sha256": "0" * 64,
        "golden": "equal",
        "test": {"mae": 1.5},
        "metric": "mae",
    }
    return Served("tiny-base-s1", predictor, about)


def trained(project: Project, name: str, runs: Path) -> Run:
    """A finished run of a project's model, trained for a few steps on the data of its kind."""
    recipe, config = project.home.recipe("brought", "base"), project.home.config_of("brought")
    experiment, _ = resolve("brought", recipe, config, seed=1, overrides=())
    run = run_experiment(experiment, Place(runs, runs), Watch(), 0, EXAMPLES[name].dataset())
    assert run
    return run
