"""Reading a row of a table."""

from lockstep.model import Numbers
from lockstep.model import Predictor as BasePredictor

from .config import Config
from .model import Model
from .preprocess import Preprocess


class Predictor(BasePredictor):
    """A row of numbers, by the names of its columns, to the target's value."""

    parts = (Config, Preprocess, Model)
    takes = Numbers()
