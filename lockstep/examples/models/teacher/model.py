"""The teacher model: a student that learns, and a teacher that follows it after each step."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from lockstep.model import Batch, Group, Losses

from .config import Config


class Model(nn.Module):
    """Inputs (n, 64) to the teacher's scores (n, classes)."""

    def __init__(self, config: Config, classes: int):
        super().__init__()
        self.config = config
        self.student = nn.Sequential(
            nn.Linear(64, config.hidden),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(config.hidden, classes),
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.teacher(inputs)  # type: ignore[no-any-return]


def loss(model: Model, batch: Batch) -> Losses:
    """Cross-entropy of the examples that have a label, and disagreement of all with the teacher."""
    scores = model.student(batch.inputs)
    has_label = batch.inputs.sum(1).mul(64).long() % model.config.labelled == 0
    right = F.cross_entropy(scores, batch.target, reduction="none") * has_label
    apart = (scores.softmax(1) - model.teacher(batch.inputs).softmax(1)).square().sum(1)
    return Losses(right * model.config.labelled + model.config.agreement * apart)


def groups(config: Config) -> list[Group]:
    """The last layer does not decay."""
    return [Group("student.3.*", decay=0.0)]


def after_step(model: Model, step: int) -> None:
    """Let the teacher follow the student: faster in the beginning."""
    decay = min(model.config.decay, 1 - 1 / (step + 2))
    for slow, fast in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
