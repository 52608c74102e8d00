"""The next character of a text: a small decoder with tied weights, and a mean over tokens."""

from .config import Config
from .inference import Predictor
from .model import Model, loss, measures, output
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss", "measures", "output"]
