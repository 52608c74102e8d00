"""The prices model: one hidden layer on the columns of a table."""

import torch
from torch import nn

from lockstep.model import Batch, Losses

from .config import Config


class Model(nn.Module):
    """Inputs (n, columns) to values (n, targets), in units of ``scale``."""

    def __init__(self, config: Config, targets: int):
        super().__init__()
        self.scale = config.scale
        self.features = nn.Sequential(nn.Linear(config.columns, config.hidden), nn.ReLU())
        self.values = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.hidden, targets))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.values(self.features(inputs))  # type: ignore[no-any-return]


def loss(model: Model, batch: Batch) -> Losses:
    """The squared error of each example, in units of ``scale``."""
    return Losses((model(batch.inputs) - batch.target / model.scale).square().mean(1))


def output(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """The values (n, targets) in the target's own unit."""
    values: torch.Tensor = model(inputs)
    return values * model.scale
