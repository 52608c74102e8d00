"""A model's numbers laid out in one flat vector each: parameters, gradient, buffers."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from lockstep.ground.errors import ModelError

_LIMBS = 4  # of 16 bits, which float32 holds exactly, for each whole number that travels in a row
_FLAT = (torch.float32, torch.complex64)  # kinds of buffers that lie in the flat vector


class FlatParameters:
    """Moves the parameters, gradients and float buffers of a model into flat vectors.

    The model works on as before, on views. One vector makes the optimizer, the sum over shards, the
    fingerprint and the copy for a checkpoint one operation each instead of one for each tensor.
    Frozen parameters (without ``requires_grad``) are in none: nothing moves them. But they, too,
    lie channels last, as in a Predictor: how weights lie decides the kernel, and so the bits.

    Parameters stand in the order of ``key``, a function of their names. Of equals those with two or
    more axes are first, so that what learns alike is one slice. ``row`` is what travels up the tree
    of shards, float32: ``sums``, which is [gradients | buffers | loss], then ``weight``, the sum of
    what examples count, and ``notes``, whole numbers below 2^24, whose sums are exact. ``counts``
    are buffers of whole numbers, ``constants`` buffers of other kinds, which may not change, and
    ``frozen`` the parameters without a gradient. Raises ModelError for a model without trained
    parameters, and for trained parameters that are not float32.
    """

    def __init__(self, model: nn.Module, key: Callable[[str], Any] = lambda _: 0):
        trained = [item for item in model.named_parameters() if item[1].requires_grad]
        _refuse_others(trained)
        self.named = dict(sorted(trained, key=lambda item: (key(item[0]), item[1].dim() < 2)))
        self.frozen = {n: p for n, p in model.named_parameters() if n not in self.named}
        self.named_buffers = {n: b for n, b in model.named_buffers() if b.dtype in _FLAT}
        parameters, buffers = list(self.named.values()), list(self.named_buffers.values())
        self.named_counts = {n: b for n, b in model.named_buffers() if _is_whole(b)}
        self.counts = list(self.named_counts.values())
        others = self.named_buffers.keys() | self.named_counts.keys()
        self.constants = {n: b for n, b in model.named_buffers() if n not in others}
        self._before = {name: buffer.clone() for name, buffer in self.constants.items()}

        device = parameters[0].device
        self.sizes = [buffer.numel() * (2 if buffer.is_complex() else 1) for buffer in buffers]
        size, extra = sum(parameter.numel() for parameter in parameters), sum(self.sizes)
        self.values = torch.empty(size, device=device)
        whole = _LIMBS * sum(count.numel() for count in self.counts)
        notes = whole + len(buffers) + 5
        self.row = torch.zeros(size + extra + 2 + notes, device=device)
        self.gradient = self.row[:size]
        self.carried, self.notes = self.row[:-notes], self.row[-notes:]
        self.sums, self.weight = self.carried[:-1], self.carried[-1]
        self.limbs = self.notes[:whole].view(_LIMBS, -1)  # of how far the counts advanced
        self.moved = self.notes[whole:-5]  # 1 for each buffer that some shard changed
        self.buffers = torch.empty(extra, device=device)
        for parameter, view in _views(parameters, self.values):
            view.copy_(parameter.data)
            parameter.data = view
        for parameter, view in _views(parameters, self.gradient):
            parameter.grad = view
        for buffer, view in _views(buffers, self.buffers):
            view.copy_(buffer)
            buffer.data = view
        for tensor in (*self.frozen.values(), *self.constants.values(), *self.counts):
            if tensor.dim() == 4:
                tensor.data = tensor.data.to(memory_format=torch.channels_last)
        self._places = {name: tensor.data_ptr() for name, tensor in self._known().items()}
        self._gradients = {n: p.grad for n, p in self.named.items()}
        ends = list(itertools.accumulate(parameter.numel() for parameter in parameters))
        self._slices = dict(zip(self.named, map(slice, [0, *ends], ends), strict=False))

    def slices(self, names: Iterable[str]) -> list[slice]:
        """Return where the values of some parameters are, neighbours as one slice."""
        found: list[slice] = []
        for one in sorted((self._slices[name] for name in names), key=lambda one: one.start):
            if found and found[-1].stop == one.start:
                one = slice(found.pop().start, one.stop)
            found.append(one)
        return found

    def attach(self) -> None:
        """Give each parameter its place in the gradient back."""
        for name, parameter in self.named.items():
            parameter.grad = self._gradients[name]

    def replaced(self, model: nn.Module) -> list[str]:
        """Return the names of parameters and buffers that are no longer those of the model.

        That is, an assignment has put another tensor, or other memory, in their place.
        """
        now = dict(model.named_parameters()) | dict(model.named_buffers())
        return [
            name
            for name, tensor in self._known().items()
            if now.get(name) is not tensor or tensor.data_ptr() != self._places[name]
        ]

    def detached(self) -> list[str]:
        """Return the names of parameters whose gradient is no longer collected in ``row``."""
        return [
            name
            for name, parameter in self.named.items()
            if parameter.grad is None or parameter.grad.data_ptr() != self._at(name)
        ]

    def changed_constants(self) -> list[str]:
        """Return the names of buffers that must not change, as they cannot be summed, but did."""
        return [n for n, b in self.constants.items() if not torch.equal(b, self._before[n])]

    def _at(self, name: str) -> int:
        gradient = self._gradients[name]
        assert gradient is not None
        return gradient.data_ptr()

    def _known(self) -> dict[str, torch.Tensor]:
        return {**self.named, **self.named_buffers, **self.named_counts, **self.constants}


def _refuse_others(trained: list[tuple[str, nn.Parameter]]) -> None:
    if not trained:
        raise ModelError("Model: no parameter with requires_grad found, expected at least one.")
    for name, parameter in trained:
        if parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ModelError(
                f"{name}: found a parameter of {kind}, expected float32; convert the model by "
                "`.float()`, or set requires_grad=False if it is not trained."
            )


def _is_whole(buffer: torch.Tensor) -> bool:
    return not (buffer.is_floating_point() or buffer.is_complex())


def _views(
    tensors: list[nn.Parameter] | list[torch.Tensor], flat: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each tensor with its place in a flat vector; pictures' weights lie channels last."""
    start = 0
    for tensor in tensors:
        if tensor.is_complex():
            pairs = flat[start : start + 2 * tensor.numel()].view(*tensor.shape, 2)
            yield tensor, torch.view_as_complex(pairs)
            start += pairs.numel()
            continue
        layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
        stride = torch.empty(tensor.shape, memory_format=layout, device="meta").stride()
        yield tensor, flat.as_strided(tensor.shape, stride, start + flat.storage_offset())
        start += tensor.numel()
