"""The small transformer as a model of the engine; nobody asks it, so it has no Predictor."""

from typing import Any

from torch import nn

from lockstep.benchmarks.models import Preprocess, loss, transformer

from .config import Config

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss"]

Predictor = None


def Model(config: Any, classes: int) -> nn.Module:  # noqa: ARG001, N802
    """The network for a number of classes."""
    return transformer(classes)
