"""Text: title and description of a machine-learning project to its tag."""

from project.models.tags.config import Config
from project.models.tags.inference import Predictor
from project.models.tags.model import Model, loss
from project.models.tags.preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss"]
