"""The outlines model: three convolutions that keep the size of a picture."""

import torch
from torch import nn
from torch.nn import functional as F

from lockstep.model import Batch, Losses

from .config import Config


class Model(nn.Module):
    """Inputs (n, 1, height, width) to scores (n, classes, height, width)."""

    def __init__(self, config: Config, classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, config.width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.width, config.width, 3, padding=1),
            nn.ReLU(),
        )
        self.classes = nn.Conv2d(config.width, classes, 3, padding=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.classes(self.features(inputs))  # type: ignore[no-any-return]


def loss(model: Model, batch: Batch) -> Losses:
    """The mean cross-entropy of the pixels of each example."""
    scores = model(batch.inputs).flatten(2).transpose(1, 2)  # (n, pixels, classes)
    target = batch.target.long().flatten(1)
    each = F.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="none")
    return Losses(each.view(target.shape).mean(1))
