"""Digits that lie on their side: the digits model, adapted by matrices of low rank (LoRA)."""

from .config import Config
from .inference import Predictor
from .model import Model, loss
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss"]
