"""Reading a picture of digits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.model import Picture, pictures
from lockstep.model import Predictor as BasePredictor

from .config import Config
from .model import Model
from .preprocess import Preprocess


class Predictor(BasePredictor):
    """A picture of one to four digits, light on dark, to the digits in it."""

    parts = (Config, Preprocess, Model)
    takes = Picture(16, 16)

    def read(self, source: Any) -> NDArray[Any]:
        """Pixels (16, 16) of 0 to 16; see ``pictures.grey`` for what a source may be."""
        return np.rint(pictures.grey(source, (16, 16)) / 255 * 16).astype(np.uint8)
