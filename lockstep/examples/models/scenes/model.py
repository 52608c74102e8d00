"""The scenes model: two convolutions, and a score for each label."""

import torch
from torch import nn
from torch.nn import functional as F

from lockstep.model import Batch, Losses

from .config import Config


class Model(nn.Module):
    """Inputs (n, 1, 16, 16) to scores (n, labels)."""

    def __init__(self, config: Config, labels: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, config.width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(config.width, 2 * config.width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.labels = nn.Linear(32 * config.width, labels)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.labels(self.features(inputs))  # type: ignore[no-any-return]


def loss(model: Model, batch: Batch) -> Losses:
    """The cross-entropy of all labels of each example."""
    target = batch.target.to(torch.float32)
    each = F.binary_cross_entropy_with_logits(model(batch.inputs), target, reduction="none")
    return Losses(each.sum(1))
