"""Grey pixels to tensors."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.model import Preprocess as BasePreprocess
from lockstep.model import pictures


class Preprocess(BasePreprocess):
    """Scales pixels; there is nothing to fit."""

    def __call__(self, raw: NDArray[Any]) -> torch.Tensor:
        """Pixels (n, 16, 16) to inputs (n, 1, 16, 16) float32."""
        return torch.from_numpy(raw.astype(np.float32)).unsqueeze(1) / 128 - 1

    @staticmethod
    def show(example: NDArray[Any]) -> pictures.Picture:
        """A raw example as people see it."""
        return pictures.drawn(example)
