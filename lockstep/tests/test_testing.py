"""Contract tests, as a project of another team runs them that has models and data of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.tests.conftest import ROOT, plain_environment

pytestmark = pytest.mark.slow

FILES = {
    "acme/__init__.py": "",
    "acme/models/__init__.py": "",
    "acme/letters.py": '''"""Shared by our models."""

import numpy as np
import sklearn  # in the lock, and nothing of the engine's business
import torch

LONGEST = 24


class Preprocess:
    """Texts as rows of letters."""

    def __init__(self, labels):
        self.labels = labels

    @classmethod
    def fit(cls, config, inputs, labels):
        return cls(labels)

    def __call__(self, raw):
        return torch.from_numpy(np.asarray(raw[:, :LONGEST]).astype(np.int64))

    def augment(self, inputs, generator):
        return inputs

    @staticmethod
    def show(example):
        return bytes(example).rstrip(b"\\0").decode()

    def state(self):
        return {"labels": self.labels}

    @classmethod
    def from_state(cls, state):
        return cls(state["labels"])
''',
    "acme/models/words/__init__.py": '''"""An LSTM that reads a text letter by letter."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lockstep import model

from ...letters import LONGEST, Preprocess

CALLS = []


@dataclass(frozen=True)
class Config:
    hidden: int = model.setting(8, "units of the LSTM", low=1)


class Model(nn.Module):
    def __init__(self, config, classes):
        super().__init__()
        self.letters = nn.Embedding(256, 4)
        self.words = nn.LSTM(4, config.hidden, batch_first=True, dropout=0.1)
        self.last = nn.Linear(config.hidden, classes)

    def forward(self, inputs):
        return self.last(self.words(self.letters(inputs))[0][:, -1])


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


class Predictor(model.Predictor):
    parts = (Config, Preprocess, Model)
    takes = model.Text(40)

    def read(self, source):
        return np.frombuffer(source.encode().ljust(40, b"\\0"), np.uint8)
''',
    "acme/models/words/recipes/base.yaml": "data: {name: reviews}\ntraining: {batch_size: 4096}\n",
    "tests/__init__.py": "",
    "tests/conftest.py": "from lockstep import testing\n",
    "tests/test_contract.py": """
import pytest
from lockstep import testing

@pytest.mark.parametrize("model", testing.models())
def test_model(model, tmp_path):
    testing.check_model(model, tmp_path)

@pytest.mark.parametrize("recipe", testing.recipes())
def test_recipe(recipe):
    testing.check_recipe(recipe)

@pytest.mark.parametrize("name", testing.data_sets())
def test_data_set(name):
    testing.check_data_set(name)
""",
}
WORDS = FILES["acme/models/words/__init__.py"]
BROKEN = {
    "counts": (
        "        return self.last(self",
        "        CALLS.append(1)\n        return len(CALLS) * self.last(self",
    ),
    "misfits": ("nn.Linear(config.hidden,", "nn.Linear(3,"),
    "lacks": ("class Predictor", "class Answers"),
    "unreadable": ("source.encode()", "source.pixels"),
    "unwritten": ("def loss(model, batch):", "def loss(model, batch)"),
}
CATALOG = """title: Reviews
licence: none
origin: ours
versions:
- decoder: table
  shape: [40]
  labels: [bad, good]
  rows: {train: 9, validation: 9, test: 9}
  files: [{name: gone.csv, sha256: "HEX"}]
""".replace("HEX", "0" * 64)


def python(folder: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=plain_environment()
        | {"LOCKSTEP_PROJECT": "acme", "PYTHONPATH": paths, "COLUMNS": "400", "PYTEST_ADDOPTS": ""}
        | variables,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A team's tree: an LSTM, code that models share, a data set of their own, our tests/."""
    folder = tmp_path_factory.mktemp("acme")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    rows = [
        f"{'good' if n % 3 else 'bad'} word {n},{'good' if n % 3 else 'bad'}" for n in range(90)
    ]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    words = "data add reviews.csv --name=reviews --label=label --text=text"
    added = python(folder, "lockstep", *words.split())
    assert added.returncode == 0, added.stderr
    return folder


def test_a_model_that_keeps_the_contract_passes_whatever_else_it_does(acme: Path) -> None:
    done = python(acme, "pytest", "-n", "0", "-q", "tests")
    assert (done.returncode, done.stdout.splitlines()[-1][:8]) == (0, "3 passed"), done.stdout
    assert not (acme / "runs").exists()


def test_it_passes_lint_too_with_no_type_and_names_that_come_from_shared_code(acme: Path) -> None:
    rules = f"--config={ROOT / 'pyproject.toml'}"
    unused = python(acme, "ruff", "check", rules, "--select=F401", "acme/models/words/__init__.py")
    assert "Preprocess" not in unused.stdout
    types = ["mypy", f"--config-file={ROOT / 'pyproject.toml'}", "--follow-imports=silent", "acme"]
    done = python(acme, *types, MYPYPATH=str(ROOT))
    assert done.returncode == 0, done.stdout


def test_what_is_broken_fails_in_a_line_that_names_it(acme: Path, tmp_path: Path) -> None:
    shutil.copytree(acme, tmp_path, dirs_exist_ok=True)
    for name, (old, new) in BROKEN.items():
        folder = tmp_path / "acme" / "models" / name
        shutil.copytree(tmp_path / "acme" / "models" / "words", folder)
        (folder / "__init__.py").write_text(WORDS.replace(old, new))
    recipes = tmp_path / "acme" / "models" / "words" / "recipes"
    (recipes / "typo.yaml").write_text("data: {name: reviews}\ntraining: {epoch: 3}\n")
    (recipes / "other.yaml").write_text("data: {name: review}\n")
    (tmp_path / "acme" / "data" / "half.yaml").write_text(CATALOG.partition("  files")[0])
    (tmp_path / "acme" / "data" / "none.yaml").write_text(CATALOG.replace("test: 9", "test: 0"))
    done = python(tmp_path, "pytest", "-n", "0", "-q", "tests")
    pattern = r"^FAILED tests/test_contract.py::test_(\w+\[[\w/]+\]) - Failed: (.*)$"
    failed = dict(re.findall(pattern, done.stdout, re.MULTILINE))
    parts = {
        "model[counts]": "models.counts.CALLS: changes in every step",
        "model[misfits]": "acme/models/misfits/__init__.py, line ",
        "model[lacks]": "lacks/__init__.py: Predictor not found, expected Config",
        "recipe[lacks/base]": "lacks/__init__.py: Predictor not found, expected Config",
        "model[unreadable]": "'str' object has no attribute 'pixels'), expected a text. (",
        "model[unwritten]": "model unwritten: SyntaxError: expected ':' (__init__.py, line ",
        "recipe[unwritten/base]": "recipe unwritten/base: SyntaxError: expected ':' (__init__.py",
        "recipe[words/typo]": "Did you mean training.epochs?",
        "recipe[words/other]": "Did you mean reviews?",
        "data_set[half]": "data/half.yaml: ",
        "data_set[none]": "found {'train': 9, 'validation': 9, 'test': 0}, expected some of train",
    }
    assert failed.keys() == parts.keys(), done.stdout
    assert [name for name, part in parts.items() if part not in failed[name]] == [], failed
    assert "During handling" not in done.stdout


@pytest.mark.parametrize(
    ("variables", "outcome"), [({}, "skipped"), ({"LOCKSTEP_CI": "1"}, "failed")]
)
def test_data_that_are_nowhere_skip_a_model_on_a_desk_and_fail_it_in_ci(
    acme: Path, tmp_path: Path, variables: dict[str, str], outcome: str
) -> None:
    shutil.copytree(acme, tmp_path, dirs_exist_ok=True)
    (tmp_path / "acme" / "data" / "reviews.yaml").write_text(CATALOG)
    variables |= {"LOCKSTEP_CI": variables.get("LOCKSTEP_CI", "")}
    done = python(
        tmp_path, "pytest", "-n", "0", "-q", "-rfs", "-k", "test_model", "tests", **variables
    )
    assert f"1 {outcome}" in done.stdout.splitlines()[-1], done.stdout
    assert "data reviews: gone.csv (sha256 000000000000) was not found" in done.stdout
