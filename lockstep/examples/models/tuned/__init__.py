"""Which digits are in a picture, by the features of the digits model: frozen, then tuned."""

from .config import Config
from .inference import Predictor
from .model import Model, groups, loss
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "groups", "loss"]
