"""The network of linear layers as a model of the engine."""

from typing import Any

from torch import nn

from lockstep import model
from lockstep.benchmarks.models import Preprocess, loss, mlp

from .config import Config

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss"]


def Model(config: Any, classes: int) -> nn.Module:  # noqa: ARG001, N802
    """The network for a number of classes."""
    return mlp(classes)


class Predictor(model.Predictor):
    """Answers with the class of a picture."""

    parts = (Config, Preprocess, Model)
    takes = model.Picture(28, 28)
