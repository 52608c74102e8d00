"""Text: title and description of a machine-learning project to its tag."""

from .config import Config
from .inference import Predictor
from .model import Model, loss
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss"]
