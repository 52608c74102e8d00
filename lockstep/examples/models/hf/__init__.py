"""Digits by a small vision transformer of Hugging Face (needs `transformers`)."""

from .config import Config
from .inference import Predictor
from .model import Model, loss
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss"]
