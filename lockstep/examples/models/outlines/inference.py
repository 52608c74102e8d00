"""Reading a picture of a digit in noise."""

from lockstep.model import Picture
from lockstep.model import Predictor as BasePredictor

from .config import Config
from .model import Model
from .preprocess import Preprocess


class Predictor(BasePredictor):
    """A picture of one digit, light on dark, to the outline of its strokes."""

    parts = (Config, Preprocess, Model)
    takes = Picture(16, 16)
