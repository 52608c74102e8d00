"""Lockstep: training runs whose result is the same bits again, and a receipt that proves it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module

    from project.models.predictor import Predictor

__version__ = "0.1.0"


def load(
    model: str,
    run: str | Path | None = None,
    runs: str | Path | None = None,
    *,
    pretrained: bool = False,
    version: str | None = None,
) -> "Predictor":
    """The trained model of a run, ready to predict: three lines from import to an answer.

    ``run`` is a path, a run's name or the beginning of it, or the path of a bundle. Or published
    weights: ``pretrained=True`` are the newest, ``version`` names some; they are fetched once from
    LOCKSTEP_WEIGHTS and kept. Raises RunError, ModelError or StorageError if there is no such run
    or version, or if it is not finished, altered, not one of this model, or answers otherwise than
    in training.
    """
    if (run is not None) + (pretrained or version is not None) != 1:
        raise TypeError("load: wanted a run, or pretrained=True, or version=..., one of them")
    from project import trained

    predictor: Predictor = trained.load(model, run, runs, version)
    return predictor


def load_features(
    model: str,
    run: str | Path | None = None,
    runs: str | Path | None = None,
    *,
    pretrained: bool = False,
    version: str | None = None,
) -> "Module":
    """The part of a trained model that finds features, to build another model on; as ``load``.

    It is frozen: its weights ask for no gradient, and it answers as in prediction. Raises
    ModelError, beside what ``load`` raises, for a model without a module ``features``.
    """
    from project.errors import ModelError

    whole = load(model, run, runs, pretrained=pretrained, version=version).model
    try:
        return whole.get_submodule("features").requires_grad_(False).eval()
    except AttributeError as error:
        raise ModelError(f"{model}: has no module `features`; name it so in its Model.") from error
