"""What a model answers to inputs, as tensors: metrics and answers alike are made of it."""

from collections.abc import Callable
from typing import Any

import torch

from lockstep.program import Kind

Output = Callable[[torch.nn.Module, Any], torch.Tensor]


def output_of(parts: Any, kind: Kind) -> Output:
    """Return the function ``output(model, inputs)`` of a model's package, or that of the kind.

    ``parts`` is the package; without the name ``output`` in it, the scores of classes, and of the
    classes of each pixel, become probabilities over dimension 1, those of labels probabilities
    each, and numbers and all else stay as the model gives them.
    """
    own: Output | None = getattr(parts, "output", None)
    return own or _BY_KIND[kind]


def is_own(output: Output) -> bool:
    """Return whether a function is a model's own ``output``, and none of those by kind."""
    return output not in _BY_KIND.values()


def as_it_is(model: torch.nn.Module, inputs: Any) -> torch.Tensor:
    """Return what the model itself gives, (n, ...)."""
    return model(inputs)  # type: ignore[no-any-return]


def _softmax(model: torch.nn.Module, inputs: Any) -> torch.Tensor:
    return torch.softmax(model(inputs), dim=1)


def _sigmoid(model: torch.nn.Module, inputs: Any) -> torch.Tensor:
    return torch.sigmoid(model(inputs))


_BY_KIND: dict[Kind, Output] = {
    "class": _softmax,
    "labels": _sigmoid,
    "mask": _softmax,
    "numbers": as_it_is,
    "none": as_it_is,
}
