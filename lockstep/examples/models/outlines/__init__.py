"""What each pixel of a picture belongs to: segmentation."""

from .config import Config
from .inference import Predictor
from .model import Model, loss
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss"]
