"""The precision that losses are computed in."""

from collections.abc import Callable
from typing import Any

import torch

from lockstep.program import Batch, Losses

Function = Callable[[Any, Batch], Any]


def computed_in(precision: str, device: str, function: Function) -> Function:
    """Return a function of a model and a batch, computed in a precision; results are float32.

    In ``bf16``, torch's autocast computes products and convolutions in bfloat16, and what needs
    more digits, such as most losses, in float32.
    """
    if precision == "float32":
        return function

    def computed(model: Any, batch: Batch) -> Any:
        with torch.autocast(device, torch.bfloat16):
            result = function(model, batch)
        if isinstance(result, Losses):
            return Losses(_float32(result.values), _float32(result.weights))
        return _float32(result)

    return computed


def _float32(value: Any) -> Any:
    is_low = isinstance(value, torch.Tensor) and value.dtype is torch.bfloat16
    return value.float() if is_low else value
