"""Handwritten digits: the embedded default, trained in seconds anywhere."""

from project.models.digits.config import Config
from project.models.digits.inference import Predictor
from project.models.digits.model import Model, loss
from project.models.digits.preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss"]
