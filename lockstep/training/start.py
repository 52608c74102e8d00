"""The weights that a run starts from: those of another run or file, in place of random ones."""

import fnmatch
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lockstep.ground.errors import SettingError, nearest
from lockstep.ground.tensors import tensors as tensors_of


def fill(
    model: nn.Module, content: bytes, patterns: Sequence[str], rename: Mapping[str, str]
) -> list[str]:
    """Copy tensors of a safetensors file into a model, and return their names.

    ``rename`` has beginnings of names in the file, and what they are in the model; ``patterns``
    choose among the names in the model, as ``features.*``. All that is chosen must fit: raises
    SettingError for a pattern without a tensor, for a tensor that the model does not have, and for
    one of another shape or type.
    """
    try:
        tensors = {_renamed(name, rename): one for name, one in tensors_of(content).items()}
    except ValueError as error:
        raise SettingError(f"start.weights: {error}; restore a good copy.") from error
    chosen = set[str]()
    for pattern in patterns:
        fitting = {name for name in tensors if fnmatch.fnmatchcase(name, pattern)}
        if not fitting:
            raise SettingError(
                f"start.parameters: {pattern!r} fits no tensor of the weights."
                f"{nearest(pattern, tensors)} (they have {', '.join(list(tensors)[:8])})"
            )
        chosen |= fitting
    own = model.state_dict()
    for name in sorted(chosen):
        if name not in own:
            raise SettingError(
                f"start: {name} is not in the model.{nearest(name, own)} Choose others by "
                "start.parameters, or name them by start.rename."
            )
        found, expected = tensors[name], own[name]
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            raise SettingError(
                f"start: {name} is {_described(found)}, the model expects {_described(expected)}; "
                "leave it out of start.parameters, or change the model."
            )
    with torch.no_grad():
        for name in chosen:
            own[name].copy_(tensors[name])
    return sorted(chosen)


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    """A name with its longest beginning that has another name here replaced."""
    for before in sorted(rename, key=len, reverse=True):
        if name.startswith(before):
            return rename[before] + name.removeprefix(before)
    return name


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
