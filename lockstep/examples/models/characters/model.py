"""The characters model: a decoder of one layer, whose embedding is also its last layer."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from lockstep.model import Batch, Losses

from .config import Config

LENGTH, TOKENS = 64, 128


class Model(nn.Module):
    """Tokens (n, length) int64 to scores (n, length, 128) of what comes next."""

    future: torch.Tensor

    def __init__(self, config: Config, classes: int):
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, config.width)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, config.width))
        self.layer = nn.TransformerEncoderLayer(
            config.width, config.heads, 2 * config.width, dropout=0.0, batch_first=True
        )
        self.scores = nn.Linear(config.width, TOKENS, bias=False)
        self.scores.weight = self.tokens.weight
        future = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
        self.register_buffer("future", future, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        hidden = self.tokens(tokens) + self.places[:length]
        hidden = self.layer(hidden, src_mask=self.future[:length, :length])
        return self.scores(hidden)  # type: ignore[no-any-return]


def loss(model: Model, batch: Batch) -> Losses:
    """Cross-entropy of the next token: a mean over all tokens of the batch that are none of 0."""
    scores, target = model(batch.inputs[:, :-1]), batch.inputs[:, 1:]
    each = F.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="none")
    counts = target != 0
    return Losses.of_sums((each.view(target.shape) * counts).sum(1), counts.sum(1))


def output(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """Whether the most likely next token is the right one, (n, length - 1)."""
    guesses: torch.Tensor = model(inputs[:, :-1]).argmax(2)
    return (guesses == inputs[:, 1:]).to(torch.float32)


def measures(outputs: NDArray[np.float32], target: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """The share of right guesses."""
    return {"accuracy": outputs.mean(1)}
