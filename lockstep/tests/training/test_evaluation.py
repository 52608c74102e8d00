"""Evaluating a program: metrics of its own or of its data set's kind, over blocks of a split."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, mean_absolute_error

from lockstep.config.recipe import resolve
from lockstep.data.dataset import Dataset, Split
from lockstep.ground import home
from lockstep.ground.errors import ModelError, SettingError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.program import Kind
from lockstep.records.run import Run
from lockstep.run.making import Setup, objective
from lockstep.tests.conftest import Call
from lockstep.tests.projects import NETWORK, Bring, Project
from lockstep.tests.run.test_laws import train as train_in_processes
from lockstep.training.distributed import ALONE

MODEL = """
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lockstep.model import Batch, Losses, Update


class Model(nn.Module):
    def __init__(self, config, outputs):
        super().__init__()
        self.features = nn.Linear(4, 8)
        self.last = nn.Linear(8, outputs)

    def forward(self, inputs):
        return self.last(torch.tanh(self.features(inputs)))
"""
PREPROCESS = """
import torch


class Preprocess:
    def __init__(self, labels):
        self.labels = labels

    @classmethod
    def fit(cls, config, inputs, labels):
        return cls(labels)

    def __call__(self, raw):
        return torch.from_numpy(raw)

    def augment(self, inputs, generator):
        return inputs

    @staticmethod
    def show(example):
        return " ".join(f"{value:.2f}" for value in example.ravel()[:4])

    def state(self):
        return {"labels": self.labels}

    @classmethod
    def from_state(cls, state):
        return cls(state["labels"])
"""
LOSSES = {
    "class": "F.cross_entropy(model(batch.inputs), batch.target)",
    "labels": "F.binary_cross_entropy_with_logits(model(batch.inputs), batch.target)",
    "numbers": "F.mse_loss(model(batch.inputs), batch.target)",
    "none": "model(batch.inputs).square().mean()",
}
PACKAGE = "from .config import Config\nfrom .inference import Predictor\nfrom .model import *\n"
PACKAGE += "from .model import Model, loss\nfrom .preprocess import Preprocess\n"


def dataset(kind: Kind, rows: int = 70) -> Dataset:
    """A data set of each kind with something to learn: inputs (rows, 4)."""
    numbers = np.random.default_rng(5)
    splits = {}
    for name in ("train", "validation", "test"):
        inputs = numbers.normal(size=(rows, 4)).astype(np.float32)
        sums = inputs.cumsum(axis=1)
        target: dict[Kind, Any] = {
            "class": sums[:, :3].argmax(axis=1),
            "labels": (sums[:, :3] > 0).astype(np.float32),
            "numbers": sums[:, :3],
            "none": np.zeros((rows, 0), np.float32),
        }
        splits[name] = Split(inputs, target[kind])
    labels = () if kind == "none" else ("a", "b", "c")
    return Dataset(kind, labels, "d" * 64, splits, f"{kind}@1", kind)


Write = Callable[..., Project]


@pytest.fixture
def write(bring: Bring) -> Write:
    """Write a program for data of a kind, with more names in its ``model.py``."""

    def program(kind: str, more: str = "", loss: str = "") -> Project:
        lines = f"def loss(model, batch):\n    return {loss or LOSSES[kind]}\n"
        return bring(__init__=PACKAGE, model=f"{MODEL}\n\n{lines}\n\n{more}", preprocess=PREPROCESS)

    return program


def experiment(project: Project, *overrides: str) -> Any:
    recipe, config = project.home.recipe("brought", "base"), project.home.config_of("brought")
    brief = ("training.keep=best", "training.evaluation_batch=20", *overrides)
    return resolve("brought", recipe, config, seed=1, overrides=brief)[0]


def train(project: Project, place: Place, kind: Kind, *overrides: str, runs: str = "runs") -> Run:
    from lockstep.run.story import run_experiment

    where = replace(place, runs=place.runs.with_name(runs))
    run = run_experiment(experiment(project, *overrides), where, Watch(), dataset=dataset(kind))
    assert run
    return run


def setup(project: Project, kind: Kind, *overrides: str) -> Setup:
    return Setup(experiment(project, *overrides), dataset(kind), ALONE)


def outputs_of(made: Setup, name: str = "validation") -> tuple[Any, Any]:
    found = made.measure(name)
    return found.outputs, found.target


def test_the_metrics_of_numbers_do_not_depend_on_the_size_of_blocks(write: Write) -> None:
    project, found = write("numbers"), []
    for size in (1, 20, 500):
        made = setup(project, "numbers", f"training.evaluation_batch={size}")
        metrics = made.measure("validation").metrics
        assert list(metrics) == ["mae", "rmse", "r2", "loss"]
        found.append(list(metrics.values()))
    outputs, target = outputs_of(made)
    assert found[0][0] == pytest.approx(mean_absolute_error(target, outputs))
    assert found[0][3] == pytest.approx(np.mean((outputs - target) ** 2), rel=1e-6)
    assert found[1:] == [pytest.approx(found[0], rel=1e-6)] * 2


def test_labels_are_measured_as_probabilities_and_without_a_target_there_is_the_loss(
    write: Write,
) -> None:
    made = setup(write("labels"), "labels")
    outputs, _ = outputs_of(made)
    assert 0 < outputs.min() < outputs.max() < 1
    assert list(made.measure("test").metrics) == ["f1", "accuracy", "per_class", "loss"]
    lines = "self.last = nn.Linear(8, 2)"
    project = write("none")
    path = project.model / "model.py"
    path.write_text(path.read_text().replace("self.last = nn.Linear(8, outputs)", lines))
    found = setup(project, "none").measure("test")
    assert (list(found.metrics), found.outputs) == (["loss"], None)


def test_metrics_of_scikit_learn_take_the_place_of_the_defaults(write: Write) -> None:
    lines = "from sklearn.metrics import average_precision_score\n\n"
    lines += (
        "def metrics(outputs, target):\n    return {'ap': average_precision_score(target, outputs)}"
    )
    made = setup(write("labels", lines), "labels")
    made.rehearse_evaluation()
    outputs, target = outputs_of(made)
    metrics = made.measure("validation").metrics
    assert list(metrics) == ["ap", "loss"]
    assert metrics["ap"] == average_precision_score(target, outputs)
    assert (made.monitor(metrics), made.evaluation.is_lower_better("ap")) == ("ap", False)


def test_measures_add_up_without_the_outputs_being_kept(write: Write) -> None:
    lines = "def measures(outputs, target):\n    wrong = abs(outputs - target)\n"
    lines += "    return {'mae': wrong.mean(axis=1), 'mae_of_large': Losses(wrong[:, 0], "
    lines += "torch.from_numpy(target[:, 0] > 1))}"
    made = setup(write("numbers", lines), "numbers")
    found = made.measure("validation")
    assert (list(found.metrics), found.outputs) == (["mae", "mae_of_large", "loss"], None)
    outputs, target = outputs_of(setup(write("numbers"), "numbers"))
    wrong, large = np.abs(outputs - target), target[:, 0] > 1
    assert found.metrics["mae"] == pytest.approx(wrong.mean(), rel=1e-6)
    assert found.metrics["mae_of_large"] == pytest.approx(wrong[large, 0].mean(), rel=1e-6)


def test_a_weighted_loss_is_the_mean_over_all_that_it_counts(write: Write) -> None:
    loss = "Losses(model(batch.inputs).square().sum(1), batch.inputs[:, 0].abs())"
    made = setup(write("numbers", loss=loss), "numbers")
    outputs, _ = outputs_of(made)
    weights = np.abs(made.dataset.splits["validation"].inputs[:, 0])
    expected = np.average((outputs**2).sum(axis=1), weights=weights)
    assert made.measure("validation").metrics["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_a_program_with_updates_is_that_of_its_first(write: Write) -> None:
    """One of representations takes those of a block; one may have a gradient in it."""
    lines = """
def apart(model, batch):
    return (batch.inputs - batch.inputs.mean(0)).square().mean()

def penalty(model, batch):
    inputs = batch.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
    return gradient.square().mean()

def updates(config):
    return [Update({first}), Update(loss)]
"""
    found = []
    for first in ("apart, represent=lambda model, batch: model(batch.inputs)", "penalty"):
        made = setup(write("numbers", lines.format(first=first)), "numbers")
        found.append(made.measure("validation").metrics["loss"])
    outputs, _ = outputs_of(made)
    blocks = [outputs[start : start + 20] for start in range(0, 70, 20)]
    expected = [np.square(block - block.mean(axis=0)).mean() for block in blocks]
    assert found[0] == pytest.approx(np.average(expected, weights=[20, 20, 20, 10]), rel=1e-6)
    assert found[1] > 0


@pytest.mark.parametrize(
    ("kind", "lines", "message"),
    [
        ("numbers", "def metrics(outputs, target):\n    return 3", "metrics: found int, expected"),
        (
            "numbers",
            "def metrics(outputs, target):\n    return {'mae': outputs}",
            "metrics: mae: found (32, 3), expected a number.",
        ),
        (
            "numbers",
            "def metrics(outputs, target):\n    return {'top-1': 1.0}",
            "metrics: found the name 'top-1', expected letters, digits and _ after a letter.",
        ),
        (
            "numbers",
            "def metrics(outputs, target):\n    return {'confusion': 1.0}",
            "metrics: the name 'confusion' has a meaning already; choose another.",
        ),
        (
            "numbers",
            "def metrics(outputs, target):\n    return {'mae': outputs.mean() / none}",
            "metrics: NameError: name 'none' is not defined (model.py, line ",
        ),
        (
            "numbers",
            "def measures(outputs, target):\n    return {'mae': abs(outputs - target)}",
            "measures: mae: found (20, 3), expected (20,), one value for each example.",
        ),
        (
            "numbers",
            "def output(model, inputs):\n    return model(inputs).sum()",
            "output: found (), expected a tensor of 20 rows.",
        ),
        ("numbers", "metrics = 3", "metrics: found 3, expected a function."),
        (
            "numbers",
            "lower_is_better = 'fid'",
            "lower_is_better: found 'fid', expected names of metrics, as ('fid',).",
        ),
        (
            "labels",
            "def output(model, inputs):\n    return model(inputs)[:, :2]",
            "Model: found outputs (20, 2), expected (20, 3) for targets of the kind 'labels'; "
            "correct its last layer, or define `metrics` or `measures` of your own.",
        ),
    ],
)
def test_what_is_no_metric_is_refused_in_one_line(
    write: Write, kind: Kind, lines: str, message: str
) -> None:
    project = write(kind, lines)
    with pytest.raises(ModelError) as caught:
        setup(project, kind).rehearse_evaluation()
    assert str(caught.value).startswith(message)


def test_metrics_are_tried_before_the_first_step(write: Write, place: Place) -> None:
    project = write("numbers", "def metrics(outputs, target):\n    return 3")
    with pytest.raises(ModelError, match="metrics: found int, expected a dict of numbers by name"):
        train(project, place, "numbers")
    assert list(place.runs.glob("*/trace.bin")) == []


def test_metrics_that_fail_on_few_rows_are_tried_on_all_of_them(write: Write) -> None:
    lines = "def metrics(outputs, target):\n    assert len(target) == 70\n    return {'rows': 70}"
    made = setup(write("numbers", lines), "numbers")
    made.rehearse_evaluation()
    assert made.evaluation.names == ("rows", "loss")


def test_an_unknown_monitor_or_budget_is_refused_with_the_names_that_there_are(
    write: Write,
) -> None:
    project = write("numbers")
    with pytest.raises(ModelError) as caught:
        setup(project, "numbers", "training.monitor=val_mae").rehearse_evaluation()
    assert str(caught.value) == (
        "training.monitor: found 'val_mae', no such metric. Did you mean mae? "
        "(there are mae, rmse, r2, loss)"
    )
    with pytest.raises(SettingError) as refused:
        setup(project, "numbers", "accept.test.accuracy=>= 0.9").rehearse_evaluation()
    assert str(refused.value) == (
        "accept.test.accuracy: no such measure. (there are test.mae, test.rmse, test.r2, "
        "test.loss, size_mb, latency_ms)"
    )


def test_a_metric_that_is_no_number_is_kept_as_none_and_is_never_better(
    write: Write, place: Place
) -> None:
    lines = "def metrics(outputs, target):\n    return {'odd': np.nan, 'huge': np.inf}"
    said: list[str] = []

    class Heard(Watch):
        def say(self, line: str) -> None:
            said.append(line)

    from lockstep.run.story import run_experiment

    project = write("numbers", lines)
    run = run_experiment(experiment(project), place, Heard(), dataset=dataset("numbers"))
    assert run
    test = run.finished_receipt()["results"]["metrics"]["test"]
    assert [test[name] for name in ("odd", "huge")] == [None, None]
    assert isinstance(test["loss"], float) and math.isfinite(test["loss"])
    assert [row["better"] for row in run.metrics()] == [False, False]
    assert said.count("warning: validation odd is not a finite number.") == 2


def test_answers_that_are_no_numbers_leave_no_metric_of_scikit_learn(write: Write) -> None:
    lines = "from sklearn.metrics import mean_absolute_error as mae\n\n"
    lines += "def metrics(outputs, target):\n    return {'mae': mae(target, outputs)}\n\n"
    lines += (
        "def output(model, inputs):\n    return torch.where(inputs > 2, torch.nan, inputs)[:, :3]"
    )
    made = setup(write("numbers", lines), "numbers")
    made.evaluation = replace(made.evaluation, names=("mae", "loss"))
    metrics = made.measure("validation").metrics
    assert (metrics["mae"], metrics["loss"] > 0, metrics["not_finite"] > 0) == (None, True, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings", "lower", "column"),
    [
        ("numbers", (), True, "mae"),
        ("numbers", ("training.monitor=r2",), False, "r2"),
        ("labels", (), False, "f1"),
        ("class", ("training.monitor=loss",), True, "loss"),
    ],
)
def test_the_monitor_chooses_the_weights_by_its_direction(
    write: Write,
    place: Place,
    call: Call,
    kind: Kind,
    settings: tuple[str, ...],
    lower: bool,
    column: str,
) -> None:
    project = write(kind)
    run = train(project, place, kind, "training.lr=0.3", "training.epochs=4", *settings)
    assert objective(experiment(project, *settings), dataset(kind)) == (column, lower)
    results, rows = run.finished_receipt()["results"], run.metrics()
    values = [row["validation"][column] for row in rows]
    best = (min if lower else max)(value for value in values if value is not None)
    assert results["monitor"] == column
    assert results["kept_step"] == rows[values.index(best)]["step"]
    assert results["metrics"]["validation"][column] == best
    line = run.summary()
    test = results["metrics"]["test"][column]
    assert isinstance(test, float)
    assert line["metric"] == column
    assert line["test"] == pytest.approx(test, abs=1e-4)


@pytest.mark.slow
def test_runs_are_chosen_sorted_and_accepted_by_the_metrics_that_they_have(
    write: Write, place: Place, call: Call
) -> None:
    project = write("numbers")
    rates = ("0.3", "0.01")
    runs = [train(project, place, "numbers", f"training.lr={rate}") for rate in rates]
    mae = [run.finished_receipt()["results"]["metrics"]["test"]["mae"] for run in runs]
    assert isinstance(mae[0], float) and isinstance(mae[1], float)
    where = ("--runs", str(place.runs))
    code, out, _ = call("runs", *where, "--sort", "test.mae", "--where", f"test.mae<={max(mae)}")
    names = [line.split()[0] for line in out.splitlines()[1:]]
    assert (code, names) == (
        0,
        [run.name for _, run in sorted(zip(mae, runs, strict=True), key=str)],
    )
    code, _, err = call("runs", *where, "--where", "test.accuracy>0.9")
    assert (code, err.partition(" Did you")[0]) == (
        2,
        "error: test.accuracy: no such metric or setting.",
    )
    assert "test.mae, test.r2, test.rmse, validation.loss" in err
    run = str(runs[0].folder)
    assert call("accept", run, "--set", "test.mae=<= 1e6")[0] == 0
    code, out, _ = call("accept", run, "--set", "validation.r2=>= 1")
    assert (code, "NOT met" in out) == (1, True)
    code, _, err = call("accept", run, "--set", "test.maee=<= 3")
    assert (code, err) == (
        2,
        f"error: {runs[0].name}: test.maee: no such metric. Did you mean test.mae? (there are "
        "test.loss, test.mae, test.r2, test.rmse, validation.loss, validation.mae, "
        "validation.r2, validation.rmse)\n",
    )


@pytest.mark.slow
def test_the_report_shows_numbers_as_a_scatter_with_the_farthest_answers(
    write: Write, place: Place
) -> None:
    run = train(write("numbers"), place, "numbers")
    page = (run.folder / "report.html").read_text()
    titles = [line.partition("<")[0] for line in page.split("<h2>")[1:]]
    assert titles == [
        "Train it again",
        "Settings",
        "Learning curves",
        "Answers and targets, on the test split",
        "Worst mistakes",
        "Receipt",
    ]
    assert page.count("<figure>") == 18
    page = (train(write("labels"), place, "labels").folder / "report.html").read_text()
    assert "<td>test f1</td>" in page and "What was taken for what" not in page


def test_a_finished_run_without_its_data_is_listed_by_its_own_metrics(
    write: Write, place: Place, tmp_path: Path
) -> None:
    lines = "lower_is_better = ('spread',)\n\n"
    lines += "def metrics(outputs, target):\n    return {'spread': outputs.std()}"
    project = write("class", lines)
    run = train(project, place, "class")
    rows = run.metrics()
    best = min(row["validation"]["spread"] or 0.0 for row in rows)
    assert run.finished_receipt()["results"]["metrics"]["validation"]["spread"] == best
    assert run.summary()["metric"] == "spread"


def documented() -> list[str]:
    """The programs in the section on metrics of the page on models."""
    page = (home.ENGINE / "docs" / "models.md").read_text()
    section = page.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    return [part.partition("```")[0] for part in section.split("```python\n")[1:]]


def test_the_metrics_of_the_documentation_are_measured(write: Write) -> None:
    auc, measures, lower = documented()
    kinds: list[tuple[Kind, str]] = [("labels", auc), ("numbers", f"{measures}\n\n{lower}")]
    names = []
    for kind, lines in kinds:
        made = setup(write(kind, lines.replace("> 100", "> 1")), kind)
        made.rehearse_evaluation()
        names.append(made.evaluation.names)
    assert names == [("auc", "loss"), ("mae", "mae_of_large", "loss")]
    assert made.evaluation.is_lower_better("surprise")


OWN = """
def metrics(outputs, target):
    return {"spread": outputs.std(), "accuracy": (outputs.argmax(1) == target).mean()}


def measures(outputs, target):
    sure = outputs.max(axis=1)
    return {"sureness": sure, "weighted": Losses(sure, target)}
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [7, 500])
def test_workers_do_not_show_in_the_metrics(bring: Bring, tmp_path: Path, size: int) -> None:
    """Also where there are fewer blocks than workers, so that some see none of the outputs."""
    project = bring(
        __init__=PACKAGE,
        model=NETWORK.replace("import torch\n", "import torch\nfrom lockstep.model import Losses\n")
        + OWN,
    )
    found = set()
    for workers in (1, 2, 4):
        runs = tmp_path / f"runs-{workers}"
        settings = (f"training.evaluation_batch={size}", "training.monitor=weighted")
        done = train_in_processes(project, *settings, f"--workers={workers}", "--runs", str(runs))
        assert done.returncode == 0, done.stderr
        (receipt,) = (json.loads(path.read_bytes()) for path in runs.glob("*/receipt.json"))
        results = receipt["results"]
        assert list(results["metrics"]["test"]) == sorted(
            ["accuracy", "loss", "spread", "sureness", "weighted"]
        )
        found.add(json.dumps([results["metrics"], results["metrics_sha256"]]))
    assert len(found) == 1
