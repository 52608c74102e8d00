"""ONNX Runtime instead of torch: near, declared, and still the same whatever else is asked."""

from typing import Any

import pytest

from lockstep import loading
from lockstep.answers import golden
from lockstep.ground.errors import ModelError
from lockstep.publishing.onnx import TOLERANCE, Session
from lockstep.records.run import Run

pytestmark = pytest.mark.slow  # the export takes some seconds


@pytest.fixture(scope="module")
def by_onnx(finished_run: Run) -> loading.Served:
    return loading.served(finished_run, onnx=True)


@pytest.fixture(scope="module")
def rows(by_onnx: loading.Served) -> list[Any]:
    assert by_onnx.predictor.golden
    examples = golden.examples(by_onnx.predictor.golden)
    return [examples[number % 8] for number in range(70)]


def test_its_answers_are_near_those_of_training_and_told_to_be_others(
    by_onnx: loading.Served, finished_run: Run, rows: list[Any]
) -> None:
    wanted = loading.predictor(finished_run).answers(rows)
    found = by_onnx.predictor.answers(rows)
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    apart = [
        abs(one["confidences"][label] - share)
        for one, other in zip(found, wanted, strict=True)
        for label, share in other["confidences"].items()
    ]
    assert max(apart) <= TOLERANCE
    assert by_onnx.about["runtime"].startswith("onnxruntime ")
    assert by_onnx.about["golden"].endswith("not the bits of training")


def test_alone_and_among_others_an_answer_has_the_same_bits(
    by_onnx: loading.Served, rows: list[Any]
) -> None:
    predictor = by_onnx.predictor
    alone = [predictor.answers([row])[0] for row in rows]
    for count in (2, 3, 8, 17, 32, 70):
        assert predictor.answers(rows[:count]) == alone[:count]


def test_a_model_that_it_computes_otherwise_is_refused(
    finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lockstep.publishing.onnx.TOLERANCE", 0.0)
    whole = Session.forward
    monkeypatch.setattr(Session, "forward", lambda self, inputs: whole(self, inputs) * 1.001)
    with pytest.raises(ModelError, match="omit --onnx"):
        loading.served(finished_run, onnx=True)
