"""Raw 8 x 8 pixels of 0 to 16 to tensors."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from lockstep.model import pictures

from .config import Config


class Preprocess:
    """Scales pixels to mean 0 and deviation 1 as found on the training split.

    The mean and deviation are saved with the weights, so that training and inference agree.
    """

    def __init__(self, config: Config, labels: list[str], mean: float, deviation: float):
        self.config, self.labels, self.mean, self.deviation = config, labels, mean, deviation

    @classmethod
    def fit(cls, config: Config, inputs: NDArray[Any], labels: list[str]) -> Self:
        """Look at the training split, (rows, 8, 8) uint8."""
        mean, deviation = float(inputs.mean()), float(inputs.std())
        return cls(config, labels, float(f"{mean:.9g}"), float(f"{deviation:.9g}"))

    def __call__(self, raw: NDArray[Any]) -> torch.Tensor:
        """Pixels (n, 8, 8) to inputs (n, 1, 8, 8) float32."""
        pixels = torch.from_numpy(np.ascontiguousarray(raw)).to(torch.float32)
        return pixels.sub_(self.mean).div_(self.deviation).unsqueeze(1)

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Each picture moved by up to ``shift`` pixels, in training only."""
        if not self.config.shift:
            return inputs
        n, _, height, width = inputs.shape
        padded = F.pad(inputs, (self.config.shift,) * 4, value=-self.mean / self.deviation)
        moves = torch.randint(2 * self.config.shift + 1, (2, n, 1), generator=generator)
        rows = (moves[0] + torch.arange(height))[:, :, None]
        columns = (moves[1] + torch.arange(width))[:, None, :]
        return padded[torch.arange(n)[:, None, None], 0, rows, columns].unsqueeze(1)

    @staticmethod
    def show(example: NDArray[Any]) -> pictures.Picture:
        """A raw example as people see it."""
        return pictures.drawn((np.asarray(example) * 15.9375).astype(np.uint8))

    def state(self) -> dict[str, Any]:
        """What was fitted, as JSON."""
        return {"labels": self.labels, "mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The same preprocessing again."""
        config = Config(**state["config"])
        return cls(config, state["labels"], state["mean"], state["deviation"])
