"""The digits model: two convolutions, then two linear layers."""

import torch
from torch import nn
from torch.nn import functional as F

from .config import Config


class Model(nn.Module):
    """Inputs (n, 1, 8, 8) to scores (n, classes)."""

    def __init__(self, config: Config, classes: int):
        super().__init__()
        first, second = config.channels
        self.features = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(
            nn.Linear(second * 16, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, classes),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(inputs))  # type: ignore[no-any-return]


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of a batch, a scalar."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)
