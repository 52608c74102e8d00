"""The apparel model: a small residual network (He et al., 2015), features and classifier apart."""

import torch
from torch import nn
from torch.nn import functional as F

from .config import Config


class Model(nn.Module):
    """Inputs (n, 1, 28, 28) to scores (n, classes); ``features`` gives (n, widths[-1])."""

    def __init__(self, config: Config, classes: int):
        super().__init__()
        self.smoothing, self.mirror = config.smoothing, config.mirror
        stem, *stages = config.widths
        layers = [convolution(1, stem)]
        for width, before, blocks in zip(stages, config.widths, config.blocks, strict=False):
            layers += [nn.MaxPool2d(2), convolution(before, width)]
            layers += [Residual(width) for _ in range(blocks)]
        self.features = nn.Sequential(*layers, GlobalMax())
        self.classifier = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.widths[-1], classes)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.features(inputs))
        if self.mirror and not self.training:
            scores = (scores + self.classifier(self.features(inputs.flip(3)))) / 2
        return scores


class Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            convolution(width, width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (self.body(inputs) + inputs).relu_()  # type: ignore[no-any-return]


class GlobalMax(nn.Module):
    """The largest value of each channel. (CUDA's adaptive pooling is not deterministic.)"""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.amax(dim=(2, 3))


def convolution(before: int, after: int) -> nn.Module:
    """A 3 x 3 convolution with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of a batch with smoothed labels, a scalar."""
    inputs, labels = batch
    assert isinstance(model, Model)
    return F.cross_entropy(model(inputs), labels, label_smoothing=model.smoothing)
