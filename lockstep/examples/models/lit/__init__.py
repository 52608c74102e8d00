"""Digits by a LightningModule, whose source knows nothing of Lockstep (needs `lightning`)."""

from .config import Config
from .inference import Predictor
from .model import Model, loss, optimizer, schedule
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "loss", "optimizer", "schedule"]
