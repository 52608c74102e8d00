"""Forged digits: a generator and a critic that learn from each other (a Wasserstein GAN)."""

from .config import Config
from .inference import Predictor
from .model import Model, loss, metrics, output, updates
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss", "metrics", "output", "updates"]
