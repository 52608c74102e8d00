"""Reading a picture of a garment."""

from typing import Any

from numpy.typing import NDArray

from lockstep.model import Picture, pictures
from lockstep.model import Predictor as BasePredictor

from .config import Config
from .model import Model
from .preprocess import Preprocess


class Predictor(BasePredictor):
    """A picture of one garment, light on dark, to its category."""

    parts = (Config, Preprocess, Model)
    takes = Picture(28, 28)

    def read(self, source: Any) -> NDArray[Any]:
        """Pixels (28, 28) of 0 to 255; see ``pictures.grey`` for what a source may be."""
        return pictures.grey(source, (self.takes.height, self.takes.width))
