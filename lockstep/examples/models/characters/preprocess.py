"""Bytes of a text to tokens."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.model import Preprocess as BasePreprocess


class Preprocess(BasePreprocess):
    """ASCII as tokens of 0 to 127; 0 is the end of a text, and other bytes are 127."""

    def __call__(self, raw: NDArray[Any]) -> torch.Tensor:
        """Bytes (n, length) uint8 to tokens (n, length) int64."""
        return torch.from_numpy(np.minimum(raw, 127).astype(np.int64))

    @staticmethod
    def show(example: NDArray[Any]) -> str:
        """A raw example as people see it."""
        return bytes(example).rstrip(b"\0").decode(errors="replace")
