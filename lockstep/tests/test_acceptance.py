"""Budgets: what a run is measured by, what is told of it, what a wrong one is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lockstep.config.budgets import MEASURES, Budget, budget
from lockstep.ground import home
from lockstep.ground.errors import RunError, SettingError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.publishing import acceptance
from lockstep.records.run import Run
from lockstep.tests.conftest import Call, experiment
from lockstep.tests.records.test_receipt import resealed

METRICS = ("accuracy", "f1", "loss")  # of a classifier


@pytest.fixture
def copy(finished_run: Run, tmp_path: Path) -> Run:
    """A copy of a finished run, to state other budgets in."""
    return Run(shutil.copytree(finished_run.folder, tmp_path / "runs" / "copy", symlinks=True))


def state(run: Run, text: str) -> None:
    """Let a run's recipe have had this section accept, by its receipt as well."""
    rewrite(run, text)
    receipt: Any = run.receipt
    receipt["accept"] = run.experiment().get("accept") or {}
    (run.folder / "receipt.json").write_bytes(resealed(receipt))


def rewrite(run: Run, text: str) -> None:
    """Write another section accept into a run's experiment.yaml, after its training."""
    path = run.folder / "experiment.yaml"
    head, _, rest = path.read_text().partition("accept:\n")
    after = "".join(line for line in rest.splitlines(True) if line[0] != " ")
    path.write_text(head + after + text)


@pytest.mark.parametrize(
    ("bound", "met"),
    [
        (">= 0.92", [False, True, True]),
        ("> 0.92", [False, False, True]),
        ("<=0.92", [True, True, False]),
        (" < 92e-2 ", [True, False, False]),
    ],
)
def test_a_bound_is_kept_by_the_numbers_on_its_side(bound: str, met: list[bool]) -> None:
    read = budget("test.accuracy", bound)
    assert isinstance(read, Budget)
    assert [read.met(found) for found in (0.9199, 0.92, 0.9201)] == met
    assert budget("test.accuracy", read.condition) == read


@pytest.mark.parametrize("bound", ["0.92", ">=", "=> 0.92", ">= much", ">= nan", "== 1", 5, None])
def test_what_is_no_bound_is_refused(bound: object) -> None:
    assert budget("size_mb", bound) == (
        f"found {bound!r}, expected a bound such as '>= 0.92' or '<= 5'"
    )


def test_budgets_decide_no_bit_and_are_kept_in_the_experiment() -> None:
    stated = experiment("digits/base", "accept.size_mb=<= 0.5", "accept.test.f1=> 0.9")
    assert stated.accept == {
        "test.accuracy": ">= 0.98",
        "size_mb": "<= 0.5",
        "latency_ms": "<= 20",
        "test.f1": "> 0.9",
    }
    bits = experiment().as_dict(bits_only=True)
    assert stated.as_dict(bits_only=True) == bits
    assert "accept" not in bits
    assert stated.as_dict()["accept"] == stated.accept


def test_a_run_keeps_the_budgets_of_its_recipe(finished_run: Run) -> None:
    assert finished_run.experiment()["accept"] == experiment().accept
    wanted = {one.measure: one.condition for one in acceptance.budgets(finished_run)}
    assert wanted == experiment().accept


def test_every_measure_is_measured(finished_run: Run, place: Place) -> None:
    names = [f"{split}.{name}" for split in ("test", "validation") for name in METRICS]
    wanted = [budget(measure, ">= 0") for measure in (*names, *MEASURES)]
    budgets = [one for one in wanted if isinstance(one, Budget)]
    found = acceptance.findings(finished_run, budgets, place, Watch())
    values = {one.measure: one.value for one in found}
    assert finished_run.receipt
    metrics = finished_run.receipt["results"]["metrics"]
    for split in ("test", "validation"):
        for name in METRICS:
            assert values.pop(f"{split}.{name}") == metrics[split][name]
    weights = finished_run.folder / "weights.safetensors"
    assert values.pop("size_mb") == len(weights.read_bytes()) / 1_000_000
    assert (values.pop("latency_ms") or 0) > 0
    assert (values, [one.met for one in found]) == ({}, [True] * len(wanted))


def test_the_verb_prints_what_was_found_and_exits_with_1_if_one_fails(
    call: Call, copy: Run, finished_run: Run
) -> None:
    assert finished_run.receipt
    accuracy = finished_run.receipt["results"]["metrics"]["test"]["accuracy"]
    state(copy, "accept:\n  test.accuracy: '>= 0.99'\n")
    code, out, err = call("accept", str(copy.folder))
    assert [line.split() for line in out.splitlines()] == [
        ["measure", "found", "expected"],
        ["test.accuracy", f"{accuracy:.6g}", ">=", "0.99", "NOT", "met"],
        ["NOT", "accepted"],
    ]
    assert (code, err) == (1, "")
    words = ("accept", str(copy.folder), "--set", "test.accuracy=> 0.1", "--set=size_mb=<= 5")
    code, out, _ = call(*words, "--json")
    size = (copy.folder / "weights.safetensors").stat().st_size / 1e6
    told = json.loads(out)
    assert (code, told["run"], told["accepted"]) == (0, "copy", True)
    assert told["budgets"] == [
        {"measure": "test.accuracy", "found": accuracy, "wanted": "> 0.1", "met": True},
        {"measure": "size_mb", "found": size, "wanted": "<= 5", "met": True},
    ]


def test_mistakes_in_budgets_are_told_all_at_once(copy: Run) -> None:
    state(copy, "accept:\n  tset.accuracy: '>= 0.9'\n")
    with pytest.raises(SettingError) as error:
        acceptance.budgets(copy, ["size_mb", "latency=<= 5", "size_mb=5"])
    lines = [line.partition(" (there are")[0] for line in str(error.value).splitlines()]
    assert lines == [
        "--set size_mb: '=' not found, expected as in test.loss='<= 0.5'",
        f"{copy.folder}/experiment.yaml: accept.tset.accuracy: no such measure.",
        "--set latency: no such measure. Did you mean latency_ms?",
        "--set size_mb: found '5', expected a bound such as '>= 0.92' or '<= 5'",
    ]


def test_a_run_without_budgets_is_told_how_to_state_one(call: Call, copy: Run) -> None:
    state(copy, "")
    code, out, err = call("accept", str(copy.folder))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: copy: its recipe states no budgets; state one by --set test.acc")
    assert call("accept", str(copy.folder), "--set", "test.loss=<= 99")[0] == 0


def test_a_run_that_fails_is_refused_where_it_is_to_be_used(copy: Run, place: Place) -> None:
    state(copy, "accept:\n  test.accuracy: '>= 0.99'\n  test.loss: < 9\n  size_mb: < 0.1\n")
    with pytest.raises(RunError) as error:
        acceptance.refuse_failing(copy, place, Watch())
    told = str(error.value)
    assert told.startswith("copy: does not keep its recipe's budgets: test.accuracy 0.")
    assert ("size_mb 0.341136, expected < 0.1" in told, "test.loss" in told) == (True, False)
    state(copy, "accept:\n  test.loss: < 9\n")
    assert [one.met for one in acceptance.refuse_failing(copy, place, Watch())] == [True]
    state(copy, "")
    assert acceptance.refuse_failing(copy, place, Watch()) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "found no budget, expected >= 0.99"),
        ("accept:\n  test.accuracy: '>= 0.1'\n", "found >= 0.1, expected >= 0.99"),
    ],
)
def test_a_budget_that_was_removed_or_lowered_after_training_opens_no_gate(
    call: Call, copy: Run, tmp_path: Path, text: str, told: str
) -> None:
    state(copy, "accept:\n  test.accuracy: '>= 0.99'\n")
    rewrite(copy, text)
    line = f"error: {copy.folder}/experiment.yaml: accept.test.accuracy: {told} as in the receipt"
    for words in (("bundle",), ("publish", "--to", str(tmp_path)), ("accept",)):
        code, out, err = call(*words, str(copy.folder))
        assert (code, out, err.count("\n"), err.startswith(line)) == (2, "", 1, True), err
    assert not (copy.folder / "model.tar.gz").exists()


def test_a_receipt_that_was_embellished_is_refused(copy: Run, place: Place) -> None:
    receipt: Any = copy.receipt
    receipt["results"]["metrics"]["test"]["accuracy"] = 1.0
    (copy.folder / "receipt.json").write_text(json.dumps(receipt, indent=2, sort_keys=True) + "\n")
    with pytest.raises(RunError, match=r"receipt\.json: its digest is"):
        acceptance.refuse_failing(copy, place, Watch())


@pytest.mark.parametrize(
    "recipe", sorted(home.here().folder.glob("models/*/recipes/*.yaml")), ids=str
)
def test_what_a_recipe_says_that_it_brings_keeps_its_budget(recipe: Path) -> None:
    name, brought = recipe.read_text().splitlines()[1].split(", test ")[1].split()[:2]
    stated = experiment(f"{recipe.parts[-3]}/{recipe.stem}").accept
    read = budget(f"test.{name}", stated.get(f"test.{name}", ">= 0"))
    assert isinstance(read, Budget)
    assert read.met(float(brought))
