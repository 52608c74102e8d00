"""The tuned model: features that another run has found, and a classifier of their own."""

import torch
from torch import nn
from torch.nn import functional as F

from lockstep.model import Batch, Group, Losses

from .config import Config


class Model(nn.Module):
    """Inputs (n, 1, 16, 16) to scores (n, labels): the highest of each quarter's."""

    def __init__(self, config: Config, labels: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, config.width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.width, 2 * config.width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Conv2d(2 * config.width, config.hidden, 4, stride=4),
            nn.ReLU(),
            nn.Conv2d(config.hidden, labels, 1),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.features(inputs))
        return scores.amax((2, 3))


def loss(model: Model, batch: Batch) -> Losses:
    """The cross-entropy of all labels of each example."""
    target = batch.target.to(torch.float32)
    each = F.binary_cross_entropy_with_logits(model(batch.inputs), target, reduction="none")
    return Losses(each.sum(1))


def groups(config: Config) -> list[Group]:
    """The features stay as they are for some steps, and learn slowly after that."""
    return [Group("features.*", rate=config.rate, start=config.frozen)]
