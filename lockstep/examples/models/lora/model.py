"""The lora model: frozen layers, each with a product of two small matrices (Hu et al., 2021)."""

import torch
from torch import nn
from torch.nn import functional as F

from lockstep.model import Batch

from .config import Config


class Adapted(nn.Module):
    """A linear layer that stays as it is, and what is added to it."""

    def __init__(self, inputs: int, outputs: int, rank: int):
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.base(inputs) + self.up(self.down(inputs))  # type: ignore[no-any-return]


class Model(nn.Module):
    """Inputs (n, 1, 8, 8) to scores (n, classes)."""

    def __init__(self, config: Config, classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, config.width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.width, 2 * config.width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        ).requires_grad_(False)
        self.hidden = Adapted(32 * config.width, config.hidden, config.rank)
        self.scores = Adapted(config.hidden, classes, config.rank)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.scores(F.relu(self.hidden(self.features(inputs))))  # type: ignore[no-any-return]


def loss(model: Model, batch: Batch) -> torch.Tensor:
    """Cross-entropy of a batch, a scalar."""
    return F.cross_entropy(model(batch.inputs), batch.target)
