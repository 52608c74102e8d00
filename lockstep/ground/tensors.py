"""Reads safetensors that others wrote."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_HEAD = 4 << 20  # bytes; some 40,000 tensors have so many, the largest models a few thousand


def tensors(content: bytes) -> "dict[str, torch.Tensor]":
    """Return the tensors of a safetensors file by name.

    Raises ValueError for what is none, or has a list of tensors that would take long to read.
    """
    import safetensors.torch

    if _HEAD < (size := int.from_bytes(content[:8], "little")) <= len(content):
        raise ValueError(f"found a list of tensors of {size:,} bytes, expected {_HEAD:,} at most")
    try:
        found: dict[str, torch.Tensor] = safetensors.torch.load(content)
        return found
    except safetensors.SafetensorError as error:
        raise ValueError(f"no safetensors ({error})") from error
