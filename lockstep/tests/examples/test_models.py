"""Every model's folder: the same five names, features apart, and a new one trains at once."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lockstep.answers import predictor
from lockstep.data.catalog import entry
from lockstep.ground import home
from lockstep.records import source
from lockstep.records.run import Run
from lockstep.tests.conftest import EXAMPLES, ROOT, experiment, mostly_slow

NAMES = EXAMPLES
CLASSIFIERS = ("apparel", "digits", "tags")
each = pytest.mark.parametrize("name", NAMES)
each_classifier = pytest.mark.parametrize("name", CLASSIFIERS)


class Parts:
    """A model of a recipe with its data's shape, and some raw examples."""

    def __init__(self, name: str, *overrides: str) -> None:
        config = experiment(f"{name}/base", *overrides)
        found = entry(config.data.name)
        self.module: Any = home.here().module(name)
        made = np.random.default_rng(0)
        if name == "tags":  # bytes at random would be no words
            words = np.array(["graph", "video", "OpenCV", "text", "deploy", "agents"])
            texts = [" ".join(made.choice(words, 3)).encode() for _ in range(24)]
            self.raw = np.array([list(text.ljust(40, b"\0")) for text in texts], np.uint8)
        else:
            self.raw = made.integers(0, 17, (24, *found.shape), np.uint8)
        self.labels = torch.arange(24) % max(1, len(found.labels))
        self.preprocess: Any = self.module.Preprocess.fit(
            config.settings, self.raw, list(found.labels)
        )
        self.model: Any = self.module.Model(config.settings, len(found.labels)).eval()


@each
def test_a_model_has_the_same_five_names(name: str) -> None:
    module: Any = home.here().module(name)
    assert {"Config", "Model", "Predictor", "Preprocess", "loss"} <= {*module.__all__}
    assert issubclass(module.Predictor, predictor.Predictor)
    assert issubclass(module.Model, torch.nn.Module)
    assert module.Config is home.here().config_of(name)
    assert list(inspect.signature(module.loss).parameters) == ["model", "batch"]
    folder = home.here().folder / "models" / name
    files = {"config.py", "preprocess.py", "model.py", "inference.py", "__init__.py", "recipes"}
    assert files <= {path.name for path in folder.iterdir()}


@each_classifier
def test_features_and_classifier_are_apart(name: str) -> None:
    parts = Parts(name)
    inputs = parts.preprocess(parts.raw)
    features = parts.model.features(inputs)
    assert (features.ndim, len(features)) == (2, 24)
    assert torch.equal(parts.model.classifier(features), parts.model(inputs))
    halves = {key.split(".")[0] for key in parts.model.state_dict()}
    assert halves == {"features", "classifier"}


@each_classifier
def test_the_loss_is_one_number_that_training_can_follow(name: str) -> None:
    parts = Parts(name)
    loss = parts.module.loss(parts.model, (parts.preprocess(parts.raw), parts.labels))
    loss.backward()
    assert (loss.ndim, bool(loss.isfinite())) == (0, True)
    assert all(parameter.grad is not None for parameter in parts.model.parameters())


@each
def test_a_model_imports_the_contract_page_alone(name: str) -> None:
    package = home.here().name_of(name)
    imported = {
        one
        for path in (home.here().folder / "models" / name).rglob("*.py")
        for one in source.imports(path.read_bytes(), package)
        if one.startswith("lockstep") and not one.startswith(package)
    }
    assert {one for one in imported if not one.startswith("lockstep.model")} <= {"lockstep"}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("digits", ()),
        ("digits", ("model.shift=2",)),
        ("apparel", ()),
        ("apparel", ("model.shift=2", "model.erase=6")),
        ("tags", ("model.forget=0.5",)),
    ],
)
def test_augmentation_keeps_shape_and_type_and_is_a_function_of_the_generator(
    name: str, overrides: tuple[str, ...]
) -> None:
    parts = Parts(name, *overrides)
    inputs = parts.preprocess(parts.raw)
    before, state = inputs.clone(), torch.get_rng_state()

    def augmented(seed: int) -> torch.Tensor:
        found: torch.Tensor = parts.preprocess.augment(inputs, torch.Generator().manual_seed(seed))
        return found

    first, again, other = augmented(1), augmented(1), augmented(2)
    assert (first.shape, first.dtype) == (inputs.shape, inputs.dtype)
    assert (torch.equal(first, again), torch.equal(first, other)) == (True, False)
    assert torch.equal(torch.get_rng_state(), state)  # nothing from elsewhere
    assert torch.equal(inputs, before)


def test_without_augmentation_pictures_stay_as_they_are() -> None:
    for name, overrides in (("digits", ("model.shift=0",)), ("apparel", ("model.flip=false",))):
        parts = Parts(name, *overrides)
        inputs = parts.preprocess(parts.raw)
        assert torch.equal(parts.preprocess.augment(inputs, torch.Generator()), inputs)


def test_augmentation_of_garments_mirrors_moves_and_hides() -> None:
    """Of one bright pixel: where it is after each way of augmentation alone."""
    raw = np.zeros((400, 28, 28), np.uint8)
    raw[:, 10, 20] = 255

    def places(*overrides: str) -> set[tuple[int, ...]]:
        off = ("model.flip=false", "model.shift=0", "model.erase=0")
        preprocess: Any = Parts("apparel", *off, *overrides).preprocess
        augmented = preprocess.augment(preprocess(raw), torch.Generator().manual_seed(0))
        bright = augmented[:, 0] == augmented.max()
        return {tuple(at) for picture in bright for at in picture.nonzero().tolist() or [()]}

    assert places() == {(10, 20)}
    assert places("model.flip=true") == {(10, 20), (10, 7)}
    assert places("model.shift=1") == {(y, x) for y in (9, 10, 11) for x in (19, 20, 21)}
    assert places("model.erase=14") == {(10, 20), ()}


@each
def test_what_preprocessing_has_fitted_comes_back_from_its_state(name: str) -> None:
    parts = Parts(name)
    config = vars(parts.preprocess.config)
    again = parts.module.Preprocess.from_state(parts.preprocess.state() | {"config": config})
    assert torch.equal(again(parts.raw), parts.preprocess(parts.raw))
    assert again.labels == parts.preprocess.labels


@pytest.mark.parametrize("name", ["digits", "apparel"])
def test_pixels_have_mean_0_and_deviation_1(name: str) -> None:
    parts = Parts(name)
    pixels = parts.preprocess(parts.raw)
    assert (abs(float(pixels.mean())) < 1e-5, abs(float(pixels.std()) - 1) < 1e-3) == (True, True)


@pytest.mark.slow
def test_a_small_apparel_model_trains(train_briefly: Callable[..., Run]) -> None:
    run = train_briefly("apparel/base", "model.widths=[4, 8]", "model.blocks=[0]")
    assert run.receipt
    assert run.receipt["results"]["labels"][1] == "Trouser"


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """A project without a model yet."""
    folder = tmp_path / "acme"
    (folder / "models").mkdir(parents=True)
    for path in (folder, folder / "models"):
        (path / "__init__.py").touch()
    return folder


def new_model(acme: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join([str(acme.parent), str(ROOT)])
    variables = os.environ | {"LOCKSTEP_PROJECT": "acme", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "lockstep", "new-model", *words]
    # There its own package is the first of its name, whatever the team's is called.
    return subprocess.run(command, cwd=acme.parent, env=variables, capture_output=True, text=True)


def files(folder: Path) -> dict[str, bytes]:
    kept = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept if p.is_file()}


@pytest.mark.parametrize("like", mostly_slow(NAMES, 2))
def test_a_new_model_is_a_copy_of_an_example_with_its_data_and_is_clean(
    acme: Path, like: str
) -> None:
    done = new_model(acme, "mine", "--like", like)
    assert done.returncode == 0, done.stderr
    example = home.examples().folder / "models" / like
    assert files(acme / "models" / "mine").keys() == files(example).keys()
    assert len(files(acme / "data")) == 1
    settings = ("--config", str(ROOT / "pyproject.toml"))
    for words in (("black", "--check", "-q"), ("ruff", "check", "-q")):
        command = [sys.executable, "-m", *words, *settings, str(acme)]
        checked = subprocess.run(command, cwd=ROOT, capture_output=True)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_a_new_model_on_data_of_ones_own_has_no_figures_of_the_example(acme: Path) -> None:
    (acme / "data").mkdir()
    (acme / "data" / "mine.yaml").write_text((home.examples().catalog / "digits.yaml").read_text())
    done = new_model(acme, "first", "--like", "tags", "--data", "mine")
    assert done.returncode == 0, done.stderr
    recipe = (acme / "models" / "first" / "recipes" / "base.yaml").read_text()
    assert (recipe.startswith("data:\n  name: mine\n"), "accept" in recipe) == (True, False)
    assert "tune:" in recipe
    done = new_model(acme, "second", "--data", "mime")
    assert (done.returncode, "Did you mean mine?" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["Mine", "2mine", "my-mine", "../mine", "mine/more", "", "class"])
def test_a_name_that_cannot_be_a_package_is_refused(acme: Path, name: str) -> None:
    before = files(acme)
    done = new_model(acme, name)
    assert (done.returncode, len(done.stderr.splitlines()), files(acme)) == (2, 1, before)


def test_a_name_that_is_taken_is_refused(acme: Path) -> None:
    assert new_model(acme, "mine").returncode == 0
    before = files(acme)
    taken = f"{acme / 'models' / 'mine'}: already exists; choose another name or remove it."
    done = new_model(acme, "mine")
    assert (done.returncode, done.stderr, files(acme)) == (2, f"error: {taken}\n", before)


def test_an_apparel_model_with_a_mirror_answers_with_the_mean_of_both_views() -> None:
    parts = Parts("apparel", "model.mirror=true")
    inputs = parts.preprocess(parts.raw)
    plain = parts.model.classifier(parts.model.features(inputs))
    turned = parts.model.classifier(parts.model.features(inputs.flip(3)))
    assert torch.equal(parts.model(inputs), (plain + turned) / 2)
    assert torch.equal(parts.model(inputs), parts.model(inputs.flip(3)))
    parts.model.train()
    found, again = parts.model(inputs), parts.model.classifier(parts.model.features(inputs))
    assert torch.equal(found, again)
