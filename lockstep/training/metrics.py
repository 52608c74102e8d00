"""Metrics of a split by the kind of its targets, and which of them are better when lower.

NumPy arrays in, plain numbers out. This is the one place of the engine where metrics have names;
all else takes whatever names a run has.
"""

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.program import Kind

# Figures by name; besides them the tables ``per_class`` and ``confusion``, and ``not_finite``, the
# number of answers that are no numbers. A figure that is not finite is None, as JSON has no NaN.
Metrics = dict[str, Any]
RESERVED = ("per_class", "confusion", "not_finite")

# With more classes a table of all pairs takes megabytes in each receipt, and nobody reads it.
LARGEST_CONFUSION = 100  # classes

# The first one is what training.monitor means where it is empty.
DEFAULTS: dict[Kind, tuple[str, ...]] = {
    "class": ("accuracy", "f1", "loss"),
    "labels": ("f1", "accuracy", "loss"),
    "numbers": ("mae", "rmse", "r2", "loss"),
    "mask": ("iou", "accuracy", "loss"),
    "none": ("loss",),
}
_LOWER = {"loss", "error", "errors", "mae", "mse", "rmse", "rmsle", "msle", "mape", "smape"}
_LOWER |= {"perplexity", "ppl", "nll", "bce", "bpd", "bpc", "bpb", "kl", "crps", "ece"}
_LOWER |= {"wer", "cer", "ter", "eer", "fpr", "fnr", "brier", "deviance", "distance"}
_LOWER |= {"fid", "kid", "lpips", "chamfer", "hausdorff"}


def is_lower_better(name: str, own: Collection[str] = ()) -> bool:
    """Return whether less of a metric is better, by the words of its name.

    It is for ``own`` names, and for those with a word such as loss, error or mae in them
    (``mean_squared_error``), unless they begin with ``neg_``.
    """
    words = name.lower().split("_")
    return name in own or (words[0] != "neg" and not _LOWER.isdisjoint(words))


def figures(metrics: Metrics) -> dict[str, float | None]:
    """Return the figures among metrics, without tables and counts."""
    return {name: value for name, value in metrics.items() if name not in RESERVED}


def figure(value: float) -> float | None:
    """Return a value as metrics have it: None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def exact_sum(values: Iterable[float] | NDArray[Any]) -> float:
    """Return the sum of values, rounded once, so that no order shows; NaN if one is not finite."""
    array = np.asarray(values, np.float64)
    return math.fsum(array.ravel()) if np.isfinite(array).all() else math.nan


def broken_rows(outputs: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each row whether one of its values is NaN or infinite, (rows,)."""
    rows: NDArray[np.bool_] = ~np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
    return rows


def classification(outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> Metrics:
    """Accuracy, macro F1, cross-entropy, and by class precision, recall, F1 and the confusions.

    Of probabilities (rows, classes) and labels (rows,). ``confusion[i][j]`` counts the examples of
    class i that were taken for class j. An answer that is not finite counts as wrong, with no
    probability for the right class.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    broken = broken_rows(outputs)
    outputs = np.where(broken[:, None], np.float32(0), outputs)
    classes = range(outputs.shape[1])
    predicted = np.where(broken, (labels + 1) % len(classes), outputs.argmax(axis=1))
    table = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0.0)
    right = np.maximum(outputs[np.arange(len(labels)), labels].astype(np.float64), 1e-12)
    metrics: Metrics = {
        "accuracy": float((predicted == labels).mean()),
        "f1": float(table[2].mean()),
        # Rounded, because numpy takes its logarithm from whatever vector unit the CPU has.
        "loss": round(float(-np.log(right).mean()), 9),
        "per_class": _per_class(table),
    }
    if len(classes) <= LARGEST_CONFUSION:
        metrics["confusion"] = confusion_matrix(labels, predicted, labels=classes).tolist()
    return metrics


def multilabel(outputs: NDArray[np.float32], target: NDArray[Any]) -> Metrics:
    """Macro F1, the share of rows with all labels right, and by label precision, recall and F1.

    Of probabilities (rows, labels), which count as said from one half on, and 0 or 1 (rows,
    labels). An answer that is not finite counts as wrong in all labels.
    """
    from sklearn.metrics import precision_recall_fscore_support

    target = target > 0
    predicted = np.where(broken_rows(outputs)[:, None], ~target, outputs >= 0.5)
    columns = range(target.shape[1])  # named, or a single column would be taken for two classes
    single = [
        precision_recall_fscore_support(
            target[:, column],
            predicted[:, column],
            labels=[True],
            zero_division=0.0,
        )
        for column in columns
    ]
    table = tuple(np.concatenate(parts) for parts in zip(*single, strict=True))
    return {
        "f1": float(table[2].mean()),
        "accuracy": float((predicted == target).all(axis=1).mean()),
        "per_class": _per_class(table),
    }


def _per_class(table: Any) -> dict[str, list[float]]:
    names = ("precision", "recall", "f1", "support")
    return {name: column.tolist() for name, column in zip(names, table, strict=True)}


def regression(outputs: NDArray[np.float32], target: NDArray[Any]) -> Metrics:
    """Mean absolute error, root of the mean squared error, and R2, the mean over the columns.

    Of numbers and targets (rows, columns). They are None if an answer is not finite.
    """
    outputs, target = outputs.astype(np.float64), np.asarray(target, np.float64)
    errors = outputs - target
    squares = exact_sum(errors * errors)
    return {
        "mae": figure(exact_sum(np.abs(errors)) / errors.size),
        "rmse": figure(math.sqrt(squares / errors.size)),
        "r2": figure(
            exact_sum([_r2(*pair) for pair in zip(errors.T, target.T, strict=True)])
            / errors.shape[1]
        ),
    }


def _r2(errors: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Return R2 of a column; of a constant one 1 if all answers are right, else 0."""
    apart = target - exact_sum(target) / len(target)
    unexplained, variation = exact_sum(errors * errors), exact_sum(apart * apart)
    if variation:
        return 1 - unexplained / variation
    return math.nan if math.isnan(unexplained) else float(unexplained == 0)


def confusions(outputs: NDArray[np.float32], target: NDArray[Any]) -> NDArray[np.float32]:
    """Count the pixels of each class that were taken for each, (rows, classes, classes).

    Of probabilities (rows, classes, height, width) and classes (rows, height, width). A target
    that is no class, such as 255 or -100, is left out; an answer that is not finite is wrong.
    """
    count = outputs.shape[1]
    target = target.astype(np.int64)
    broken = ~np.isfinite(outputs).all(axis=1)
    predicted = np.where(broken, (target + 1) % count, np.nan_to_num(outputs).argmax(axis=1))
    known = (target >= 0) & (target < count)
    pairs = target * count + predicted
    counts = [
        np.bincount(row[which], minlength=count * count)
        for row, which in zip(pairs, known, strict=True)
    ]
    return np.array(counts, np.float32).reshape(len(target), count, count)


def segmentation(counts: NDArray[np.float32]) -> Metrics:
    """Mean intersection over union, the share of pixels that are right, and both by class.

    Of ``confusions`` (rows, classes, classes). A class that is neither in a target nor in an
    answer has no part in the mean.
    """
    total = counts.astype(np.float64).sum(axis=0)  # whole numbers, so exact in any order
    right, support, answered = np.diag(total), total.sum(axis=1), total.sum(axis=0)
    union = support + answered - right
    iou = right / np.maximum(union, 1)
    metrics: Metrics = {
        "iou": figure(exact_sum(iou) / max(int(np.count_nonzero(union)), 1)),
        "accuracy": figure(right.sum() / max(total.sum(), 1)),
        "per_class": {
            "iou": iou.tolist(),
            "precision": (right / np.maximum(answered, 1)).tolist(),
            "recall": (right / np.maximum(support, 1)).tolist(),
            "support": support.tolist(),
        },
    }
    if len(total) <= LARGEST_CONFUSION:
        metrics["confusion"] = total.astype(np.int64).tolist()
    return metrics
