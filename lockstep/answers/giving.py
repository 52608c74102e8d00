"""What a model answers, made of its outputs: a label, several, numbers, a mask or a vector."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from lockstep.answers.inputs import Answer, Gives
from lockstep.ground.errors import ModelError


def answers(
    gives: Gives, outputs: torch.Tensor, names: Sequence[str], threshold: float
) -> list[Any]:
    """Return an answer for each row of the outputs (rows, ...), as JSON.

    - label: ``{"label", "confidence", "confidences"}`` of probabilities (rows, names);
    - labels: ``{"labels", "confidences"}``, the names whose probability reaches the threshold;
    - values: ``{name: number}`` of numbers (rows, names), or (rows,) for one name;
    - mask: ``{"mask", "shares"}``, a class for each pixel, and each class's share of all pixels,
      of probabilities (rows, names, height, width);
    - vector: ``{"vector"}``, the row as nested lists.

    A number that is not finite is None, but in a label's confidences. Raises ModelError for
    outputs of another shape.
    """
    if gives == "vector":
        return [{"vector": _finite(row)} for row in outputs.tolist()]
    if gives == "values" and outputs.dim() == 1:
        outputs = outputs[:, None]
    shape = tuple(outputs.shape)
    expected = "(rows, {0}, height, width)" if gives == "mask" else "(rows, {0})"
    if len(shape) != (4 if gives == "mask" else 2) or shape[1] != len(names):
        raise ModelError(
            f"Model: found outputs of shape {shape}, expected {expected.format(len(names))}, one "
            f"for each of {', '.join(map(str, names[:8]))}{', ...' if len(names) > 8 else ''}; "
            "define `output` in the model's package, or say what the Predictor gives."
        )
    if gives == "mask":
        return [_mask(row, names) for row in outputs]
    return [_BY_ROW[gives](row, names, threshold) for row in outputs.tolist()]


def _label(row: list[float], names: Sequence[str], _: float) -> Answer:
    confidences = dict(zip(names, row, strict=True))
    label = max(confidences, key=confidences.__getitem__)
    return {"label": label, "confidence": confidences[label], "confidences": confidences}


def _labels(row: list[float], names: Sequence[str], threshold: float) -> dict[str, Any]:
    confidences = dict(zip(names, row, strict=True))
    chosen = [name for name, confidence in confidences.items() if confidence >= threshold]
    return {"labels": chosen, "confidences": _finite(confidences)}


def _values(row: list[float], names: Sequence[str], _: float) -> dict[str, Any]:
    values: dict[str, Any] = _finite(dict(zip(names, row, strict=True)))
    return values


_BY_ROW = {"label": _label, "labels": _labels, "values": _values}


def _mask(row: torch.Tensor, names: Sequence[str]) -> dict[str, Any]:
    mask = row.argmax(0)
    counts = mask.flatten().bincount(minlength=len(names)).tolist()
    shares = {name: count / mask.numel() for name, count in zip(names, counts, strict=True)}
    return {"mask": mask.tolist(), "shares": shares}


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return value if math.isfinite(value) else None
