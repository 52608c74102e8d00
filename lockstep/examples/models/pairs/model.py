"""The pairs model: a loss over all pictures of a batch (Chen et al., 2020)."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lockstep.model import Batch, Update

from .config import Config


class Model(nn.Module):
    """Inputs (n, 64) to places (n, size) of length 1."""

    def __init__(self, config: Config, classes: int):
        super().__init__()
        self.config = config
        self.features = nn.Sequential(nn.Linear(64, config.hidden), nn.ReLU())
        self.head = nn.Linear(config.hidden, config.size)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.head(self.features(inputs)), dim=1)


def views(model: Model, batch: Batch) -> torch.Tensor:
    """The places of two noisy views of each picture, (n, 2, size)."""
    noise = model.config.noise * torch.randn(2, *batch.inputs.shape)
    return torch.stack([model(batch.inputs + one) for one in noise], 1)


def loss(model: Model, batch: Batch) -> torch.Tensor:
    """Cross-entropy of finding a view's partner among those of all pictures of the batch."""
    one, two = batch.inputs.unbind(1)
    scores = one @ two.T / model.config.temperature
    partner = torch.arange(len(one))
    return (F.cross_entropy(scores, partner) + F.cross_entropy(scores.T, partner)) / 2


def updates(config: Config) -> list[Update]:
    """One update, whose loss is one of the whole batch."""
    return [Update(loss, represent=views)]


def output(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """The places of pictures (n, size)."""
    return model(inputs)  # type: ignore[no-any-return]


def measures(outputs: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """How far each number of a place is from 0, on average: little if all places are alike."""
    return {"spread": np.abs(outputs).mean(1)}
