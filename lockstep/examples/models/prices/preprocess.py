"""Rows of numbers to mean 0 and deviation 1, column by column."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.model import Preprocess as BasePreprocess
from lockstep.model import SettingError

from .config import Config


class Preprocess(BasePreprocess):
    """Scales each column by its mean and deviation in the training split."""

    def __init__(self, config: Any, labels: list[str], mean: list[float], deviation: list[float]):
        super().__init__(config, labels)
        self.mean, self.deviation = mean, deviation

    @classmethod
    def fit(cls, config: Config, inputs: NDArray[Any], labels: list[str]) -> Self:
        """Look at the training split, (rows, columns) float32."""
        if inputs.shape[1:] != (config.columns,):
            raise SettingError(
                f"model.columns: found {config.columns}, expected {inputs.shape[1]}, as many as "
                "the data set has."
            )
        columns = inputs.astype(np.float64)
        mean, deviation = columns.mean(0), columns.std(0) + (columns.std(0) == 0)
        return cls(config, labels, *([float(f"{v:.9g}") for v in vs] for vs in (mean, deviation)))

    def __call__(self, raw: NDArray[Any]) -> torch.Tensor:
        """Rows (n, columns) to inputs (n, columns) float32."""
        rows = torch.from_numpy(np.ascontiguousarray(raw, np.float32))
        return (rows - torch.tensor(self.mean)) / torch.tensor(self.deviation)

    def state(self) -> dict[str, Any]:
        """What was fitted, as JSON."""
        return super().state() | {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The same preprocessing again."""
        config = Config(**state["config"])
        return cls(config, state["labels"], state["mean"], state["deviation"])
