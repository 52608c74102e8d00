"""The forge model: a critic with a penalty on its slope (Gulrajani et al., 2017), a generator."""

import torch
from numpy.typing import NDArray
from torch import nn

from lockstep.model import Batch, Update

from .config import Config


class Model(nn.Module):
    """Two networks: noise (n, noise) to pictures (n, 64), and pictures to scores (n, 1)."""

    def __init__(self, config: Config, classes: int):
        super().__init__()
        self.config = config
        self.generator = nn.Sequential(
            nn.Linear(config.noise, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 64)
        )
        self.critic = nn.Sequential(
            nn.Linear(64, config.hidden), nn.LeakyReLU(0.2), nn.Linear(config.hidden, 1)
        )

    def forged(self, like: torch.Tensor) -> torch.Tensor:
        """As many pictures as there are in ``like``, from noise."""
        return torch.tanh(self.generator(torch.randn(len(like), self.config.noise)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.critic(inputs)  # type: ignore[no-any-return]


def loss(model: Model, batch: Batch) -> torch.Tensor:
    """The critic's loss: real pictures score higher than forged ones, and its slope is near 1."""
    real, forged = batch.inputs, model.forged(batch.inputs).detach()
    share = torch.rand(len(real), 1)
    between = (real * share + forged * (1 - share)).requires_grad_()
    (slope,) = torch.autograd.grad(model(between).sum(), between, create_graph=True)
    penalty = (torch.linalg.vector_norm(slope, dim=1) - 1).square().mean()
    apart = model(forged).mean() - model(real).mean()
    total: torch.Tensor = apart + model.config.penalty * penalty
    return total


def generator_loss(model: Model, batch: Batch) -> torch.Tensor:
    """The generator's loss: its pictures score high."""
    return -model(model.forged(batch.inputs)).mean()  # type: ignore[no-any-return]


def updates(config: Config) -> list[Update]:
    """The critic learns in each step, the generator once in a while."""
    return [
        Update(loss, "critic.*"),
        Update(generator_loss, "generator.*", every=config.critics),
    ]


def output(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """The critic's scores (n, 1)."""
    return model(inputs)  # type: ignore[no-any-return]


def metrics(outputs: NDArray, target: NDArray) -> dict[str, float]:  # type: ignore[type-arg]
    """The mean score of real pictures."""
    return {"score": float(outputs.mean(dtype=float))}
