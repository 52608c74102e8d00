"""Digits of which few have labels: a mean teacher guides the student (Tarvainen, Valpola, 2017)."""

from .config import Config
from .inference import Predictor
from .model import Model, after_step, groups, loss
from .preprocess import Preprocess

__all__ = ["Config", "Model", "Predictor", "Preprocess", "after_step", "groups", "loss"]
