"""Predictors: three lines from import to an answer, from files that are what they promise."""

import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep.examples import load
from lockstep.examples.models import apparel, digits
from lockstep.examples.models.digits import Preprocess
from lockstep.ground.errors import LockstepError, ModelError, RunError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.run import Run
from lockstep.run.keeping import open_data
from lockstep.tests.conftest import ROOT
from lockstep.training.parameters import FlatParameters


@pytest.fixture(scope="module")
def pictures(data_folder: Path) -> list[Any]:
    """The test split of digits, as people see it."""
    split = open_data("digits", Place(data_folder, data_folder), Watch()).splits["test"]
    return [Preprocess.show(example) for example in split.inputs]


@pytest.fixture
def copy(finished_run: Run, tmp_path: Path) -> Path:
    """A copy of a finished run, to be spoilt."""
    return shutil.copytree(finished_run.folder, tmp_path / finished_run.name, symlinks=True)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_run_is_found_by_path_name_beginning_and_identity(
    finished_run: Run, pictures: list[Any]
) -> None:
    answers = load("digits", finished_run.folder).predict(pictures[:3])
    runs, name = finished_run.folder.parent, finished_run.name
    ways = (str(finished_run.folder), name, name[:-3], name[:6], name[-8:])
    assert [load("digits", way, runs).predict(pictures[:3]) == answers for way in ways] == [
        True
    ] * len(ways)


def test_an_answer_has_a_label_and_how_sure_the_model_is_of_it(
    finished_run: Run, pictures: list[Any]
) -> None:
    (answer,) = load("digits", finished_run.folder).predict(pictures[:1])
    confidences = answer["confidences"]
    assert list(confidences) == [str(digit) for digit in range(10)]
    assert sum(confidences.values()) == pytest.approx(1, abs=1e-6)
    assert (answer["confidence"], confidences[answer["label"]]) == (max(confidences.values()),) * 2
    assert json.loads(json.dumps(answer)) == answer


def test_answers_are_those_of_the_run_itself_in_the_order_of_the_inputs(
    finished_run: Run, pictures: list[Any], data_folder: Path
) -> None:
    model = load("digits", finished_run.folder)
    found = [answer["label"] for answer in model.predict(pictures)]
    assert finished_run.receipt
    test = finished_run.receipt["results"]["metrics"]["test"]
    labels = open_data("digits", Place(data_folder, data_folder), Watch()).splits["test"].target
    pairs = labels * 10 + np.array([int(label) for label in found])
    assert np.bincount(pairs, minlength=100).reshape(10, 10).tolist() == test["confusion"]
    assert [answer["label"] for answer in model.predict(pictures[::-1])] == found[::-1]
    assert model.predict([]) == []


def test_the_model_computes_the_bits_that_it_had_in_training(
    finished_run: Run, pictures: list[Any]
) -> None:
    loaded = load("digits", finished_run.folder)
    trained = deepcopy(loaded)
    FlatParameters(trained.model)  # as training lays out the weights
    assert trained.predict(pictures) == loaded.predict(pictures)


@pytest.mark.slow
def test_a_python_that_had_torch_before_us_gets_the_same_answer(
    finished_run: Run, pictures: list[Any], tmp_path: Path
) -> None:
    script = """
import torch, sys
from lockstep.examples import load
[answer] = load("digits", sys.argv[1]).predict([sys.argv[2]])
print(answer["label"], torch.get_num_threads())
"""
    pictures[0].save(tmp_path / "digit.png")
    words = [sys.executable, "-c", script, str(finished_run.folder), str(tmp_path / "digit.png")]
    plain = {name: text for name, text in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    done = subprocess.run(words, cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    (answer,) = load("digits", finished_run.folder).predict(pictures[:1])
    assert (done.stdout, done.stderr) == (f"{answer['label']} 1\n", "")


def test_four_files_are_enough(finished_run: Run, pictures: list[Any], tmp_path: Path) -> None:
    from lockstep.examples.models.digits import Predictor

    for name in ("weights.safetensors", "preprocess.json", "golden.json", "receipt.json"):
        shutil.copy(finished_run.folder / name, tmp_path)
    here, there = Predictor.load(tmp_path), load("digits", finished_run.folder)
    assert here.predict(pictures[:9]) == there.predict(pictures[:9])


@pytest.mark.parametrize("name", ["weights.safetensors", "preprocess.json", "golden.json"])
def test_an_altered_file_is_refused_by_name(copy: Path, name: str) -> None:
    flip_a_bit(copy / name)
    with pytest.raises(ModelError) as error:
        load("digits", copy)
    assert str(error.value).startswith(f"{copy / name}: found sha256 ")


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "preprocess.json", "golden.json", "receipt.json"]
)
def test_a_missing_file_is_named_with_what_to_do(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError) as error:
        digits.Predictor.load(copy)
    assert str(error.value) == (
        f"{copy / name}: No such file or directory, expected a finished run; run its train command "
        "to the end."
    )


@pytest.mark.parametrize("text", ["", '{"results": {', '{"results": {}}', "[]", '"receipt"'])
def test_a_receipt_that_is_none_is_refused_by_name(copy: Path, text: str) -> None:
    (copy / "receipt.json").write_text(text)
    with pytest.raises(LockstepError, match=r"/receipt.json: [^\n]*; it was altered"):
        load("digits", copy)


def test_a_run_of_another_model_is_refused(finished_run: Run) -> None:
    line = f"{finished_run.folder}: found the model 'digits', expected 'apparel'"
    with pytest.raises(ModelError) as error:
        load("apparel", finished_run.folder)
    assert str(error.value) == f"{line}; load('digits', ...) loads it."
    with pytest.raises(ModelError) as error:
        apparel.Predictor.load(finished_run.folder)
    assert str(error.value) == f"{line}."


@pytest.mark.parametrize(
    ("module", "refused"),
    [
        ("acme.models.apparel", True),
        ("acme.models.apparel.parts.inference", True),
        ("acme.models.digits", False),
        ("acme.models.digits.inference", False),
        ("acme.shared", False),  # a class of several models
    ],
)
def test_a_predictor_may_be_defined_in_any_module_of_its_model_or_of_the_team(
    module: str, refused: bool, finished_run: Run
) -> None:
    class Own(digits.Predictor):
        __module__ = module

    if refused:
        with pytest.raises(ModelError, match="found the model 'digits', expected 'apparel'"):
            Own.load(finished_run.folder)
    else:
        assert Own.load(finished_run.folder).preprocess.labels[3] == "3"


def test_an_unknown_run_and_an_unknown_model_are_refused_with_the_nearest(
    finished_run: Run,
) -> None:
    with pytest.raises(RunError, match=f"no such run in .* Did you mean {finished_run.name}"):
        load("digits", finished_run.name.replace("digits", "digit"), finished_run.folder.parent)
    with pytest.raises(ModelError, match=r"digitz: no such model\. Did you mean digits\?"):
        load("digitz", finished_run.folder)
