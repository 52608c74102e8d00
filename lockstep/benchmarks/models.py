"""The networks that every loop here trains, with the other names of a model."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from lockstep import model

# Of the training pictures' pixels, scaled to 0 to 1; the constants that everyone writes.
MEAN, DEVIATION = 0.2860, 0.3530


def cnn(classes: int = 10, dropout: float = 0.25) -> nn.Module:
    """Two convolutions and two linear layers, 421,642 parameters; inputs (n, 1, 28, 28)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Dropout(dropout), nn.Flatten()),
        *(nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, classes)),
    )


def mlp(classes: int = 10) -> nn.Module:
    """Three linear layers, 784-256-128-10, 235,146 parameters; inputs (n, 1, 28, 28)."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 256), nn.ReLU()),
        *(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes)),
    )


def transformer(classes: int = 10) -> nn.Module:
    """Two encoder layers of width 64 over the 28 rows of a picture; inputs (n, 1, 28, 28)."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(Rows(), nn.Linear(28, 64), encoder, Mean(), nn.Linear(64, classes))


class Rows(nn.Module):
    """A picture (n, 1, 28, 28) as a sequence of its rows (n, 28, 28), each with its place."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(28, 28))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.squeeze(1) + self.place


class Mean(nn.Module):
    """The mean over a sequence (n, length, width)."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.mean(dim=1)


class Preprocess(model.Preprocess):
    """Turns raw pixels of 0 to 255 into the inputs that the other loops use; nothing is fitted."""

    def __call__(self, raw: NDArray[Any]) -> torch.Tensor:
        """Pixels (n, 28, 28) to inputs (n, 1, 28, 28) float32."""
        pixels = torch.from_numpy(raw).float()
        return pixels.sub_(255 * MEAN).div_(255 * DEVIATION).unsqueeze(1)


def loss(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of a batch, a scalar."""
    inputs, labels = batch
    return F.cross_entropy(network(inputs), labels)
