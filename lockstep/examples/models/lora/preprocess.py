"""Raw 8 x 8 pixels of 0 to 16 to tensors."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.model import Preprocess as BasePreprocess
from lockstep.model import pictures

MEAN, DEVIATION = 4.88827566, 6.01599299  # of the pixels that the weights were trained on


class Preprocess(BasePreprocess):
    """Turns pictures by a quarter, and scales pixels as the digits were scaled."""

    def __call__(self, raw: NDArray[Any]) -> torch.Tensor:
        """Pixels (n, 8, 8) to inputs (n, 1, 8, 8) float32."""
        pixels = torch.from_numpy(raw.astype(np.float32)).rot90(1, (1, 2))
        return pixels.sub_(MEAN).div_(DEVIATION).unsqueeze(1)

    @staticmethod
    def show(example: NDArray[Any]) -> pictures.Picture:
        """A raw example as people see it."""
        return pictures.drawn((example * 15.9375).astype(np.uint8))
