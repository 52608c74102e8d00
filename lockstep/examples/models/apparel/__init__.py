"""A picture of a garment to its category."""

from project.models.apparel.config import Config
from project.models.apparel.inference import Predictor
from project.models.apparel.model import Model, loss
from project.models.apparel.preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss"]
