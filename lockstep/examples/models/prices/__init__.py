"""A number from a row of a table: regression."""

from .config import Config
from .inference import Predictor
from .model import Model, loss, output
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss", "output"]
