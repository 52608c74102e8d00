"""Reading a picture of a digit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from project import pictures
from project.models import inputs, predictor
from project.models.digits.config import Config
from project.models.digits.model import Model
from project.models.digits.preprocess import Preprocess


class Predictor(predictor.Predictor):
    """A picture of one digit, light on dark, to the digit."""

    parts = (Config, Preprocess, Model)
    takes = inputs.Picture(8, 8)

    def read(self, source: Any) -> NDArray[Any]:
        """Pixels (8, 8) of 0 to 16; see ``pictures.grey`` for what a source may be."""
        return np.rint(
            pictures.grey(source, (self.takes.height, self.takes.width)) / 255 * 16
        ).astype(np.uint8)
