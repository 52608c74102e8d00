"""The squeeze model: a variational autoencoder (Kingma and Welling, 2014)."""

import numpy as np
import torch
from torch import nn

from lockstep.model import Batch, Losses

from .config import Config


class Model(nn.Module):
    """Inputs (n, 64) to codes (n, code), and back."""

    def __init__(self, config: Config, classes: int):
        super().__init__()
        self.config = config
        self.features = nn.Sequential(nn.Linear(64, config.hidden), nn.ReLU())
        self.code = nn.Linear(config.hidden, 2 * config.code)  # means, logarithms of variances
        self.decoder = nn.Sequential(
            nn.Linear(config.code, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 64)
        )

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, spread = self.code(self.features(inputs)).chunk(2, dim=1)
        return mean, spread


def loss(model: Model, batch: Batch) -> Losses:
    """Squared error of each picture made again, and the distance of its code."""
    mean, spread = model(batch.inputs)
    noise = torch.randn(mean.shape) if model.training else torch.zeros(mean.shape)
    again = torch.tanh(model.decoder(mean + noise * (spread / 2).exp()))
    distance = (mean.square() + spread.exp() - 1 - spread).sum(1) / 2
    return Losses((again - batch.inputs).square().sum(1) + model.config.share * distance)


def output(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """Codes and pictures made again, (n, code + 64)."""
    mean, _ = model(inputs)
    return torch.cat([mean, torch.tanh(model.decoder(mean))], 1)


def measures(outputs: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """The size of each code; the error of pictures is the loss."""
    return {"size": np.square(outputs[:, :-64]).mean(1)}
