"""Digits without labels: two views of a picture are nearer than any others (SimCLR)."""

from .config import Config
from .inference import Predictor
from .model import Model, loss, measures, output, updates
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss", "measures", "output", "updates"]
