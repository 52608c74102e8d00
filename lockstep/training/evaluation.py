"""What a model is worth: its answers on a split, and the metrics of a classifier."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lockstep.ground.digests import key_of
from lockstep.ground.generators import reseed
from lockstep.training.distributed import ALONE, Workers


class EvaluationStopped(Exception):
    """A signal to one of the workers asked to stop before all blocks were evaluated."""


Answers = tuple[NDArray[np.float32], NDArray[np.int64]]


class PerClass(TypedDict):
    """Metrics of each class, in the order of the labels; ``support`` is its number of examples."""

    precision: list[float]
    recall: list[float]
    f1: list[float]
    support: list[float]


class Metrics(TypedDict):
    """Metrics of one split; ``confusion[i][j]`` counts examples of class i taken for class j.

    ``not_finite`` is there only where some answers are NaN or infinite; it counts them.
    """

    not_finite: NotRequired[int]
    accuracy: float
    f1: float
    loss: float
    per_class: PerClass
    confusion: list[list[int]]


class Blocks(Protocol):
    """A split in blocks of rows, whose edges do not depend on who evaluates which."""

    @property
    def target(self) -> NDArray[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> torch.Tensor: ...

    def rows(self, number: int) -> slice: ...


def probabilities(
    model: nn.Module,
    blocks: Blocks,
    classes: int,
    workers: Workers = ALONE,
    stop_signal: Callable[[], int] = lambda: 0,
) -> Answers:
    """Class probabilities (rows, classes) and labels (rows,) of a split, in its order.

    Each worker evaluates some of the blocks; all get the whole. Raises EvaluationStopped in all
    workers, between two blocks, when ``stop_signal`` of one of them is not 0.
    """
    device, labels = next(model.parameters()).device, blocks.target
    answers = np.zeros((len(labels), classes), np.float32)
    with evaluation_mode(model), torch.inference_mode():
        for first in range(0, len(blocks), workers.count):
            if workers.any(bool(stop_signal())):  # also shows the others that this one is at work
                raise EvaluationStopped
            if (number := first + workers.rank) < len(blocks):
                reseed(key_of(0, "evaluation", number))
                scores = model(blocks[number].to(device))
                answers[blocks.rows(number)] = torch.softmax(scores, dim=1).cpu().numpy()
    return workers.all_gather(answers), labels


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Keep a model in evaluation mode, and give each of its parts back its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # not all alike: a part may stay in evaluation on purpose
            module.training = training


def metrics(answers: NDArray[np.float32], labels: NDArray[np.int64]) -> Metrics:
    """Accuracy, macro F1, cross-entropy, and by class precision, recall, F1 and the confusions.

    ``confusion[i][j]`` counts the examples of class i that were taken for class j. An answer that
    is not finite counts as wrong, with no probability for the right class.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    broken: NDArray[np.bool_] = ~np.all(np.isfinite(answers), axis=1)
    answers = np.where(broken[:, None], np.float32(0), answers)
    classes = range(answers.shape[1])
    predicted = np.where(broken, (labels + 1) % len(classes), answers.argmax(axis=1))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    right = np.maximum(answers[np.arange(len(labels)), labels].astype(np.float64), 1e-12)
    result: Metrics = {
        "accuracy": float((predicted == labels).mean()),
        "f1": float(f1.mean()),
        # Rounded, because numpy takes its logarithm from whatever vector unit the CPU has.
        "loss": round(float(-np.log(right).mean()), 9),
        "per_class": {
            "precision": precision.tolist(),
            "recall": recall.tolist(),
            "f1": f1.tolist(),
            "support": support.tolist(),
        },
        "confusion": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }
    if broken.any():
        result["not_finite"] = int(broken.sum())
    return result
