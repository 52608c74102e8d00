"""What a model is worth: its answers on a split, and the metrics of a classifier."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Batch = tuple[torch.Tensor, torch.Tensor]


def probabilities(
    model: nn.Module, batches: Iterable[Batch], each: Callable[[], None] = lambda: None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Class probabilities (rows, classes) and labels (rows,) of a split, in its order."""
    device = next(model.parameters()).device
    answers, labels = [], []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for inputs, targets in batches:
            answers.append(torch.softmax(model(inputs.to(device)), dim=1).cpu().numpy())
            labels.append(targets.numpy())
            each()
    model.train(was_training)
    return np.concatenate(answers), np.concatenate(labels)


def metrics(answers: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, macro F1, cross-entropy, and by class precision, recall, F1 and the confusions.

    ``confusion[i][j]`` counts the examples of class i that were taken for class j.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted, classes = answers.argmax(axis=1), range(answers.shape[1])
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    right = np.maximum(answers[np.arange(len(labels)), labels].astype(np.float64), 1e-12)
    return {
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
