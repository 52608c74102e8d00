"""Raw 8 x 8 pixels of 0 to 16 to numbers from -1 to 1."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.model import Preprocess as BasePreprocess
from lockstep.model import pictures


class Preprocess(BasePreprocess):
    """Scales pixels; there is nothing to fit."""

    def __call__(self, raw: NDArray[Any]) -> torch.Tensor:
        """Pixels (n, 8, 8) to inputs (n, 1, 8, 8) float32."""
        return torch.from_numpy(raw.astype(np.float32)).unsqueeze(1) / 8 - 1

    @staticmethod
    def show(example: NDArray[Any]) -> pictures.Picture:
        """A raw example as people see it."""
        return pictures.drawn((example * 15.9375).astype(np.uint8))
