"""The contract of a model: the one page of the engine that a project imports.

A model is a package in the project's ``models`` folder with five names: ``Config``, ``Preprocess``,
``Model``, ``loss`` and ``Predictor``. The protocols below say what the engine asks of each; a
model's classes need not inherit from them, but for ``Predictor``, which has a base class.

``lockstep/docs/models.md`` shows a complete model; ``invoke new-model NAME`` writes one.
"""

import importlib
from collections.abc import Callable
from dataclasses import Field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from lockstep.answers.inputs import Answer, Gives, Numbers, Picture, Takes, Tensor, Text
from lockstep.config.experiment import setting
from lockstep.ground.errors import DataError, LockstepError, ModelError, SettingError
from lockstep.ground.home import of
from lockstep.program import (
    Balanced,
    Batch,
    Bucketed,
    Group,
    Losses,
    Sampling,
    Sorted,
    Update,
    Weighted,
)

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from lockstep.answers.predictor import Predictor as Predictor

    _Predictor = Predictor  # of which the name in Parts would be another
    from lockstep.ground import pictures as pictures

__all__ = [
    "Answer",
    "Balanced",
    "Batch",
    "Bucketed",
    "Config",
    "DataError",
    "Gives",
    "Group",
    "LockstepError",
    "Loss",
    "Losses",
    "Model",
    "ModelError",
    "Numbers",
    "Parts",
    "Picture",
    "Predictor",
    "Preprocess",
    "Sampling",
    "SettingError",
    "Sorted",
    "Takes",
    "Tensor",
    "Text",
    "Update",
    "Weighted",
    "factors",
    "features_of",
    "loader_of",
    "pictures",
    "setting",
]


class Config(Protocol):
    """A frozen dataclass: the settings of the model, each made by ``setting``.

    Recipes set them in their section ``model``. All of them are part of a run's identity.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class Preprocess(Protocol):
    """What turns raw examples into inputs, in training and in prediction alike.

    A class that inherits from it writes ``__call__``, and of the rest what should be otherwise: as
    it stands here nothing is fitted, nothing is changed at random, and ``self.config`` has the
    settings.
    """

    config: Any
    labels: list[str]

    def __init__(self, config: Any, labels: list[str]):
        self.config, self.labels = config, labels

    @classmethod
    def fit(cls, config: Any, inputs: "NDArray[Any]", labels: list[str]) -> Self:  # noqa: ARG003
        """Look at the raw training examples, (rows, ...), once before training."""
        return cls(config, labels)

    def __call__(self, raw: "NDArray[Any]") -> Any:
        """Turn raw examples (n, ...) into inputs (n, ...), each without regard to the others.

        Inputs are a tensor, or a dict of tensors by name.
        """

    def augment(self, inputs: Any, generator: "torch.Generator") -> Any:  # noqa: ARG002
        """Change inputs (n, ...) at random, in training only; chance comes from the generator."""
        return inputs

    @staticmethod
    def show(example: "NDArray[Any]") -> "pictures.Picture | str":
        """Return a raw example as people see it: a picture or a text."""
        return " ".join(map(str, example.ravel().tolist()))

    def state(self) -> dict[str, Any]:
        """Return what was fitted as JSON, ``labels`` among it."""
        return {"labels": self.labels}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Make the same preprocessing again; ``state`` also has the settings as ``config``."""
        return cls(SimpleNamespace(**state["config"]), state["labels"])


class Model(Protocol):
    """A ``torch.nn.Module`` from inputs (n, ...) to scores (n, classes) float32.

    Random numbers in ``forward`` come from torch's default generator, which is seeded for each
    step and shard. A part named ``features`` can be reused in other models by ``load_features``.
    """

    def __init__(self, config: Any, classes: int) -> None: ...

    def __call__(self, inputs: "torch.Tensor") -> "torch.Tensor": ...


class Loss(Protocol):
    """The loss of a shard of the batch: ``loss(model, (inputs, target))``.

    Either the mean over its examples, a scalar; or ``Losses``, a value for each example with what
    it counts, of which the training makes the exact mean over the whole batch.
    """

    def __call__(self, model: Any, batch: Batch, /) -> "torch.Tensor | Losses": ...


class Parts(Protocol):
    """A model's package: what the five names in it are."""

    @property
    def Config(self) -> type[Config]: ...  # noqa: N802

    @property
    def Preprocess(self) -> type[Preprocess]: ...  # noqa: N802

    @property
    def Model(self) -> Callable[[Any, int], "torch.nn.Module"]: ...  # noqa: N802

    @property
    def loss(self) -> Loss: ...

    @property
    def Predictor(self) -> type["_Predictor"]: ...  # noqa: N802


def loader_of(package: str) -> Callable[..., "Predictor"]:
    """Return the function ``load`` of a project's package, for its ``__init__``."""

    def load(
        model: str,
        run: str | Path | None = None,
        runs: str | Path | None = None,
        *,
        pretrained: bool = False,
        version: str | None = None,
    ) -> "Predictor":
        """Return the trained model of a run, ready to predict.

        ``run`` is a path, a run's name or the beginning of it, or the path of a bundle. Or of
        published weights: ``pretrained=True`` means the newest, ``version`` a certain one; they are
        fetched once from LOCKSTEP_WEIGHTS and kept. Raises RunError, ModelError or StorageError if
        there is no such run or version, or if it is not finished, was altered, is not one of this
        model, or answers otherwise than in training.
        """
        if (run is not None) + (pretrained or version is not None) != 1:
            raise TypeError("load: expected one of a run, pretrained=True or version=...")
        # By name: how a trained model is found and opened decides no bit of a training.
        loading = importlib.import_module("lockstep.loading")
        predictor: Predictor = loading.load(of(package), model, run, runs, version)
        return predictor

    return load


def features_of(load: Callable[..., "Predictor"]) -> Callable[..., "torch.nn.Module"]:
    """Return the function ``load_features`` of a project, made of its ``load``."""

    def load_features(model: str, *words: Any, **options: Any) -> "torch.nn.Module":
        """Return the part of a trained model that finds features; arguments as for ``load``.

        It is frozen: its weights require no gradient, and it answers as in prediction. Raises
        ModelError, beside what ``load`` raises, for a model without a module ``features``.
        """
        whole = load(model, *words, **options).model
        try:
            return whole.get_submodule("features").requires_grad_(False).eval()
        except AttributeError as error:
            raise ModelError(
                f"{model}: no module `features` found; name it so in its Model."
            ) from error

    return load_features


def factors(make: Callable[[Any], Any], steps: int) -> Callable[[int], float]:
    """Return a schedule that one of torch's schedulers gives, for a model's ``schedule``.

    ``make(optimizer)`` makes the scheduler of an optimizer whose rate is 1, as
    ``lambda optimizer: OneCycleLR(optimizer, 1.0, steps)``; it is stepped once in each step.
    """
    optimizer = importlib.import_module("lockstep.training.optimizer")
    schedule: Callable[[int], float] = optimizer.factors(make, steps)
    return schedule


def __getattr__(name: str) -> Any:
    # These load torch, which a recipe's settings can be read without.
    if name == "Predictor":
        return importlib.import_module("lockstep.answers.predictor").Predictor
    if name == "pictures":
        return importlib.import_module("lockstep.ground.pictures")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
