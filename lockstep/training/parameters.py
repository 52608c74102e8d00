"""A model's numbers laid out in one flat vector each: parameters, gradient, buffers."""

from collections.abc import Iterator

import torch
from torch import nn


class FlatParameters:
    """Moves the parameters, gradients and float buffers of a model into flat vectors.

    The model works on as before, on views. One vector makes the optimizer, the sum over shards, the
    fingerprint and the copy for a checkpoint one operation each instead of one for each tensor.

    The first ``decayed`` values are those of parameters with two or more axes.
    ``row`` is what travels up the tree of shards, float32: ``sums``, which is [gradients | float
    buffers | loss], and ``notes``, whole numbers below 2^24, whose sums are exact.
    """

    def __init__(self, model: nn.Module):
        # Those that weight decay acts on stand first, so that they are one slice.
        named = sorted(model.named_parameters(), key=lambda item: item[1].dim() < 2)
        parameters = [parameter for _, parameter in named]
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        counts = [buffer for buffer in model.buffers() if not buffer.is_floating_point()]
        device = parameters[0].device
        size, extra = (sum(t.numel() for t in tensors) for tensors in (parameters, buffers))

        self.decayed = sum(p.numel() for p in parameters if p.dim() >= 2)
        self.values = torch.empty(size, device=device)
        notes = sum(count.numel() for count in counts) + 5
        self.row = torch.zeros(size + extra + 1 + notes, device=device)
        self.gradient = self.row[:size]
        self.sums, self.notes = self.row[:-notes], self.row[-notes:]
        self.buffers = torch.empty(extra, device=device)
        self.counts = counts
        for parameter, view in _views(parameters, self.values):
            view.copy_(parameter.data)
            parameter.data = view
        for parameter, view in _views(parameters, self.gradient):
            parameter.grad = view
        for buffer, view in _views(buffers, self.buffers):
            view.copy_(buffer)
            buffer.data = view


def _views(
    tensors: list[nn.Parameter] | list[torch.Tensor], flat: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each tensor with its place in a flat vector; pictures' weights lie channels last."""
    start = 0
    for tensor in tensors:
        layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
        stride = torch.empty(tensor.shape, memory_format=layout, device="meta").stride()
        yield tensor, flat.as_strided(tensor.shape, stride, start + flat.storage_offset())
        start += tensor.numel()
