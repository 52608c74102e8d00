"""Golden answers, and the law behind them: an answer is the same whatever is asked with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lockstep import loading
from lockstep.answers import golden
from lockstep.answers.predictor import BLOCK
from lockstep.examples import load
from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.errors import ModelError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.run import Run
from lockstep.run.keeping import open_data


@pytest.fixture(scope="module")
def rows(data_folder: Path) -> Any:
    """The raw test split of digits."""
    return open_data("digits", Place(data_folder, data_folder), Watch()).splits["test"].inputs


def altered(
    run: Run, folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]
) -> Run:
    """A copy of a run whose receipt and golden answers were changed, with digests that fit."""
    shutil.copytree(run.folder, folder / run.name, symlinks=True)
    copy = Run(folder / run.name)
    receipt, answers = (
        json.loads((copy.folder / name).read_bytes()) for name in ("receipt.json", "golden.json")
    )
    change(receipt, answers)
    (copy.folder / "golden.json").write_bytes(readable_json(answers))
    if "golden_sha256" in receipt["results"]:
        receipt["results"]["golden_sha256"] = digest_of(copy.folder / "golden.json")
    del receipt["digest"]
    receipt["digest"] = digest_of(canonical_json(receipt))
    (copy.folder / "receipt.json").write_bytes(readable_json(receipt))
    return copy


@pytest.mark.slow
def test_golden_answers_are_those_to_the_first_examples_of_the_test_split(
    finished_run: Run, rows: Any
) -> None:
    content = json.loads((finished_run.folder / "golden.json").read_bytes())
    predictor = load("digits", finished_run.folder)
    assert np.array_equal(golden.examples(content), rows[:8])
    assert content["answers"] == predictor.answers(list(rows[:8]))
    assert loading.served(finished_run).about["golden"] == "equal"


def test_an_answer_that_differs_in_its_last_bit_is_refused_in_one_line(
    finished_run: Run, tmp_path: Path
) -> None:
    def change(_: dict[str, Any], answers: dict[str, Any]) -> None:
        confidences = answers["answers"][2]["confidences"]
        confidences["4"] = float(np.nextafter(np.float32(confidences["4"]), np.float32(1)))

    run = altered(finished_run, tmp_path, change)
    for way in (lambda: loading.served(run), lambda: load("digits", run.folder)):
        with pytest.raises(ModelError) as error:
            way()
        told = str(error.value)
        assert told.startswith(f"{run.name}: answers otherwise than in training (example 3, 4: ")
        assert told.count("\n") == 0


def test_where_a_run_promises_nothing_its_golden_answers_are_not_held_against_it(
    finished_run: Run, tmp_path: Path
) -> None:
    def old(receipt: dict[str, Any], _: dict[str, Any]) -> None:
        receipt["schema"] = 1
        del receipt["results"]["golden_sha256"]

    def elsewhere(receipt: dict[str, Any], answers: dict[str, Any]) -> None:
        receipt["level"]["promise"] = "same bits on this machine"
        receipt["environment"]["cpu"]["model"] = "Other"
        answers["answers"][0]["confidence"] = 0.5

    told = "unchecked: the run was trained on another kind of CPU (Other)"
    cases = (("old", old, "unchecked: the run has no golden answers"), ("other", elsewhere, told))
    for name, change, wanted in cases:
        run = altered(finished_run, tmp_path / name, change)
        assert loading.served(run).about["golden"] == wanted


def test_alone_and_among_others_at_any_place_an_answer_has_the_same_bits(
    finished_run: Run, rows: Any
) -> None:
    predictor = load("digits", finished_run.folder)
    alone = [predictor.answers([row])[0] for row in rows[:70]]
    for count in (2, 3, 5, 8, 17, 32, 33, 70):
        assert predictor.answers(list(rows[:count])) == alone[:count]
        assert predictor.answers(list(rows[:count][::-1])) == alone[:count][::-1]
    assert predictor.sizes == (2, 4, 8, 16, BLOCK)


class Careless(torch.nn.Module):
    """A model with ways of computing that depend on how many rows there are, or on the first."""

    def __init__(self, model: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model(self.change(inputs))  # type: ignore[no-any-return]


def test_blocks_whose_bits_are_others_are_not_used(finished_run: Run, rows: Any) -> None:
    predictor = load("digits", finished_run.folder)
    wanted = predictor.answers(list(rows[:8]))
    predictor.model = Careless(predictor.model, lambda x: x * (1.001 if len(x) < 8 else 1))
    predictor.narrow(rows[:8])
    assert predictor.sizes == (8, 16, BLOCK)
    assert [predictor.answers([row])[0] for row in rows[:8]] == wanted


def test_a_model_whose_rows_know_of_each_other_is_refused(finished_run: Run, rows: Any) -> None:
    predictor = load("digits", finished_run.folder)
    predictor.model = Careless(predictor.model, lambda x: x - x[:1])
    with pytest.raises(ModelError, match="answers that depend on what stands beside an input"):
        predictor.narrow(rows[:8])
