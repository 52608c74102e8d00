"""The tags model: one hidden layer on the weighed terms of a text."""

import torch
from torch import nn
from torch.nn import functional as F

from .config import Config


class Model(nn.Module):
    """Inputs (n, vocabulary) to scores (n, classes); ``features`` gives (n, hidden)."""

    def __init__(self, config: Config, classes: int):
        super().__init__()
        self.class_weights = config.class_weights or [1.0] * classes
        self.features = nn.Sequential(nn.Linear(config.vocabulary, config.hidden), nn.ReLU())
        self.classifier = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.hidden, classes)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(inputs))  # type: ignore[no-any-return]


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of a batch, weighted by class, a scalar."""
    inputs, labels = batch
    assert isinstance(model, Model)
    weights = torch.tensor(model.class_weights, device=inputs.device)
    return F.cross_entropy(model(inputs), labels, weights, reduction="none").mean()
