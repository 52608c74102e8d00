"""Reading a picture of a digit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.model import Picture, pictures
from lockstep.model import Predictor as BasePredictor

from .config import Config
from .model import Model
from .preprocess import Preprocess


class Predictor(BasePredictor):
    """A picture of one digit, light on dark, to the digit."""

    parts = (Config, Preprocess, Model)
    takes = Picture(8, 8)

    def read(self, source: Any) -> NDArray[Any]:
        """Pixels (8, 8) of 0 to 16; see ``pictures.grey`` for what a source may be."""
        return np.rint(pictures.grey(source, (8, 8)) / 255 * 16).astype(np.uint8)
