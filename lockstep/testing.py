"""Contract tests: what every model, recipe and data set of a project must do, checked by pytest.

A project's ``tests/`` has one test for each kind, one case for each model, recipe or data set::

    import pytest
    from lockstep import testing

    @pytest.mark.parametrize("model", testing.models())
    def test_model(model, tmp_path):
        testing.check_model(model, tmp_path)

A check that fails says in one line what was found, what was expected, and where in the project.
"""

import dataclasses
import json
import os
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, get_args

import pytest

from lockstep.ground import home, profiles
from lockstep.ground.errors import DataError, LockstepError
from lockstep.program import Kind

if TYPE_CHECKING:
    from lockstep.config.experiment import Experiment
    from lockstep.data.catalog import Entry
    from lockstep.data.dataset import Dataset
    from lockstep.records.run import Run

STEPS = 3
_ROWS = 64  # of validation and test split
_PER_SHARD = 4  # examples, at most; more than one, for batch statistics

# Torch reads them once: before whatever a test imports.
profiles.prefer("portable")


def models() -> list[str]:
    """Return the names of the project's models."""
    with _in_one_line("project"):
        return home.here().models()


def recipes() -> list[str]:
    """Return the project's recipes as ``MODEL/RECIPE``."""
    with _in_one_line("project"):
        here = home.here()
        return [f"{model}/{name}" for model in here.models() for name in here.recipes(model)]


def data_sets() -> list[str]:
    """Return the names of the data sets in the project's catalog."""
    from lockstep.data import catalog

    with _in_one_line("project"):
        return catalog.names()


def check_model(model: str, folder: Path, *settings: str, recipe: str = "base") -> None:
    """Check that a model builds, trains three steps, saves, loads and answers.

    It trains with a recipe on a small part of its data, in small batches. ``settings`` make a large
    model small: ``check_model("mine", tmp_path, "model.width=8")``. Runs are written to ``folder``.

    A training that is stopped after two steps and resumed must have the same weights as one that is
    not stopped. The test is skipped where the data are not available, and fails there if
    LOCKSTEP_CI is set.
    """
    with _in_one_line(f"model {model}"):
        from lockstep import loading

        experiment = _experiment(f"{model}/{recipe}", settings)
        dataset, experiment = _part_of_the_data(experiment)
        run = _trained(experiment, dataset, folder / "whole")
        _trained(experiment, dataset, folder / "resumed", STEPS - 1)
        resumed = _trained(experiment, dataset, folder / "resumed")
        if different := _different_tensor(run.folder, resumed.folder):
            _fail(
                f"model {model}: found other weights in {different} after stopping at step "
                f"{STEPS - 1} and resuming, expected the same bits; keep what lasts between steps "
                "in parameters and buffers, and draw random numbers from torch or the generator."
            )
        predictor = loading.predictor(run)  # compares its answers with those at the end of training
        examples = dataset.splits["test"].inputs[:STEPS]
        inputs = [predictor.as_input(example) for example in examples]
        answers = json.loads(json.dumps(predictor.predict(inputs)))
        if len(answers) != len(inputs):
            _fail(
                f"model {model}: Predictor.predict: found {len(answers)} answers, expected one for "
                f"each of {len(inputs)} inputs."
            )


def check_recipe(recipe: str) -> None:
    """Check that ``MODEL/RECIPE`` resolves, with what it tunes, and that its data set is known."""
    from lockstep.data import catalog
    from lockstep.tuning import space

    with _in_one_line(f"recipe {recipe}"):
        experiment = _resolved(recipe)
        if not experiment.data.name:
            _fail(f"recipe {recipe}: data.name: not found, expected a data set of the catalog.")
        catalog.entry(experiment.data.name)
        path = home.here().recipe(*recipe.split("/"))
        if re.search(r"^tune:", path.read_text(), re.MULTILINE):
            space.read(path, lambda overrides: _resolved(recipe, *overrides))


def check_data_set(name: str) -> None:
    """Check that a file of the catalog can be read, and that each version in it is whole."""
    from lockstep.data import catalog

    with _in_one_line(f"data set {name}"):
        for entry in catalog.versions(name):
            for fault in _faults(entry):
                _fail(f"{catalog.file_of(name)}: {entry.reference}: {fault}.")


def _faults(entry: "Entry") -> Iterator[str]:
    """What a version in the catalog lacks, each with what was found and expected."""
    from lockstep.data import catalog, decode

    decoders = sorted({*decode.READERS, *decode.DECODERS})
    if entry.decoder not in decoders:
        yield f"decoder: found {entry.decoder!r}, expected one of {', '.join(decoders)}"
    least = 1 if entry.kind in ("class", "labels", "mask") else 0
    if not least <= len(entry.labels) == len(set(entry.labels)):
        expected = "one or more, each once" if least else "each once"
        yield f"labels: found {list(entry.labels)}, expected {expected}"
    if entry.kind not in get_args(Kind):
        kinds = ", ".join(get_args(Kind))
        yield f"reading.target.kind: found {entry.kind!r}, expected one of {kinds}"
    if not all(entry.rows.get(split, 0) > 0 for split in catalog.SPLITS):
        yield f"rows: found {entry.rows}, expected some of {', '.join(catalog.SPLITS)}"
    if not entry.files:
        yield "files: found none, expected the name and sha256 of one or more"
    for file in entry.files:
        if not re.fullmatch("[0-9a-f]{64}", file.sha256):
            yield f"{file.name}: found sha256 {file.sha256!r}, expected 64 hex digits"


def _resolved(recipe: str, *settings: str) -> "Experiment":
    from lockstep.config.recipe import resolve

    model, _, name = recipe.partition("/")
    path, config = home.here().recipe(model, name), home.here().config_of(model)
    return resolve(model, path, config, overrides=settings)[0]


def _experiment(recipe: str, settings: tuple[str, ...]) -> "Experiment":
    """The experiment of a recipe, small and on the CPU of this machine alone."""
    training = _resolved(recipe, *settings).training
    small = {
        "training.profile": "portable",
        "training.device": "cpu",
        "training.workers": 1,
        "training.loaders": 0,
        "training.batch_size": min(training.batch_size, _PER_SHARD * training.shards),
        "training.evaluation_batch": min(training.evaluation_batch, _ROWS),
        "training.patience": 0,
        "data.limit": 0,
    }
    overrides = [f"{key}={value}" for key, value in small.items()]
    from lockstep.config.experiment import Start

    # The weights that a run starts from may be on another machine.
    return dataclasses.replace(_resolved(recipe, *settings, *overrides), start=Start())


def _part_of_the_data(experiment: "Experiment") -> tuple["Dataset", "Experiment"]:
    """The first rows of each split, for three steps, and the experiment with its epochs."""
    from lockstep.ground.digests import canonical_json, digest_of

    whole, size = open_or_skip(experiment.data.name), experiment.training.batch_size
    rows = {"train": STEPS * size, "validation": _ROWS, "test": _ROWS}
    splits = {name: whole.splits[name].first(count) for name, count in rows.items()}
    digest = digest_of(canonical_json([whole.digest, rows]))
    steps_per_epoch = -(-len(splits["train"]) // size)
    epochs = -(-STEPS // steps_per_epoch)  # more than one, if there are few examples
    training = dataclasses.replace(experiment.training, epochs=epochs)
    dataset = dataclasses.replace(whole, splits=splits, digest=digest)
    return dataset, dataclasses.replace(experiment, training=training)


def open_or_skip(name: str) -> "Dataset":
    """The data set; skip the test if its files are not on this machine and cannot be fetched."""
    from lockstep.data import catalog
    from lockstep.data.fetch import located
    from lockstep.data.store import Store
    from lockstep.ground.place import Place
    from lockstep.ground.watch import Watch
    from lockstep.run.keeping import open_data

    entry, place = catalog.entry(name), Place.default()
    try:
        return open_data(name, place, Watch())
    except DataError as error:
        here = len(located(entry, Store(place.data))) == len(entry.files)
        if here or os.environ.get("LOCKSTEP_CI"):
            raise
        pytest.skip(str(error))


def _trained(experiment: "Experiment", dataset: "Dataset", runs: Path, until: int = 0) -> "Run":
    from lockstep.ground.place import Place
    from lockstep.ground.watch import Watch
    from lockstep.run.story import run_experiment

    run = run_experiment(experiment, Place(runs, Place.default().data), Watch(), until, dataset)
    assert run  # there is no other worker
    return run


def _different_tensor(a: Path, b: Path) -> str:
    """The name of the first tensor whose bytes differ between two runs; empty if none does."""
    import safetensors.torch

    first, second = (safetensors.torch.load_file(run / "weights.safetensors") for run in (a, b))
    for name, tensor in first.items():
        if tensor.numpy().tobytes() != second[name].numpy().tobytes():
            return str(name)
    return ""


@contextmanager
def _in_one_line(subject: str) -> Iterator[None]:
    """End the test in one line on any error. Warnings are shown, and are no errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
            return
    except LockstepError as error:
        cause = error.__cause__  # in the project's code, perhaps: as of a Predictor's ``read``
        line = f"{error}{_place(cause) if isinstance(cause, Exception) else ''}"
    except Exception as error:
        message = (str(error).splitlines() or [""])[0]
        line = f"{subject}: {type(error).__name__}: {message}{_place(error)}"
    _fail(line)


def _place(error: Exception) -> str:
    """The last line of the project's code that an error went through."""
    if isinstance(error, SyntaxError):
        return ""  # its message has the place
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(home.here().folder):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _fail(line: str) -> NoReturn:
    raise pytest.fail.Exception(line, pytrace=False) from None  # alone, without what it came from
