"""Reading a picture of a garment."""

from typing import Any

from numpy.typing import NDArray

from project import pictures
from project.models import inputs, predictor
from project.models.apparel.config import Config
from project.models.apparel.model import Model
from project.models.apparel.preprocess import Preprocess


class Predictor(predictor.Predictor):
    """A picture of one garment, light on dark, to its category."""

    parts = (Config, Preprocess, Model)
    takes = inputs.Picture(28, 28)

    def read(self, source: Any) -> NDArray[Any]:
        """Pixels (28, 28) of 0 to 255; see ``pictures.grey`` for what a source may be."""
        return pictures.grey(source, (self.takes.height, self.takes.width))
