"""Digits squeezed into a few numbers and back (a variational autoencoder)."""

from .config import Config
from .inference import Predictor
from .model import Model, loss, measures, output
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss", "measures", "output"]
