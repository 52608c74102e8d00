"""Raw 28 x 28 pixels of 0 to 255 to tensors."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from lockstep.model import pictures

from .config import Config

_LOOKED_AT = 10_000  # pictures whose pixels are counted for mean and deviation


class Preprocess:
    """Scales pixels to mean 0 and deviation 1 as found on the training split.

    The mean and deviation are saved with the weights, so that training and inference agree.
    """

    def __init__(self, config: Config, labels: list[str], mean: float, deviation: float):
        self.config, self.labels, self.mean, self.deviation = config, labels, mean, deviation

    @classmethod
    def fit(cls, config: Config, inputs: NDArray[Any], labels: list[str]) -> Self:
        """Look at the training split, (rows, 28, 28) uint8."""
        # Counting whole numbers is exact, whatever the order.
        counts = np.zeros(256, np.int64)
        for start in range(0, min(len(inputs), _LOOKED_AT), 500):
            counts += np.bincount(inputs[start : start + 500].ravel(), minlength=256)
        values, total = np.arange(256), int(counts.sum())
        mean = int(counts @ values) / total
        deviation = (int(counts @ values**2) / total - mean**2) ** 0.5
        return cls(config, labels, float(f"{mean:.9g}"), float(f"{deviation:.9g}"))

    def __call__(self, raw: NDArray[Any]) -> torch.Tensor:
        """Pixels (n, 28, 28) to inputs (n, 1, 28, 28) float32."""
        return torch.from_numpy(raw).float().sub_(self.mean).div_(self.deviation).unsqueeze(1)

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Pictures mirrored, moved and partly hidden at random, in training only."""
        n, _, height, width = inputs.shape
        dark = -self.mean / self.deviation
        if self.config.flip:
            mirrored = torch.rand(n, generator=generator) < 0.5
            inputs = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
        if shift := self.config.shift:
            padded = F.pad(inputs, (shift,) * 4, value=dark)
            moves = torch.randint(2 * shift + 1, (2, n, 1), generator=generator)
            rows = (moves[0] + torch.arange(height))[:, :, None]
            columns = (moves[1] + torch.arange(width))[:, None, :]
            inputs = padded[torch.arange(n)[:, None, None], 0, rows, columns].unsqueeze(1)
        if side := self.config.erase:
            corners = torch.randint(1 - side, height, (2, n, 1), generator=generator)
            away = torch.arange(height) - corners
            hidden = (away >= 0) & (away < side)
            inputs = inputs.masked_fill(
                (hidden[0, :, :, None] & hidden[1, :, None]).unsqueeze(1), dark
            )
        return inputs

    @staticmethod
    def show(example: NDArray[Any]) -> pictures.Picture:
        """A raw example as people see it."""
        return pictures.drawn(np.asarray(example))

    def state(self) -> dict[str, Any]:
        """What was fitted, as JSON."""
        return {"labels": self.labels, "mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The same preprocessing again."""
        config = Config(**state["config"])
        return cls(config, state["labels"], state["mean"], state["deviation"])
