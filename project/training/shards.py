"""The gradient of a batch: shard by shard, summed along one fixed binary tree."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import xxhash
from torch import nn

from project.training.parameters import FlatParameters

Batch = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[nn.Module, Batch], torch.Tensor]


class ShardedGradient:
    """Computes the gradient of a batch from its shards, whoever computes which of them.

    The sum over shards is ``((0+1)+(2+3))+((4+5)+(6+7))`` for eight, always: a worker that has an
    aligned block of them has a whole branch of that tree. Float buffers (running statistics) and
    the loss take the same way, weighted by the samples of each shard; whole-number buffers advance
    as in the first shard.
    """

    def __init__(
        self,
        model: nn.Module,
        flat: FlatParameters,
        loss_of: Loss,
        reseed: Callable[[int, int], None],
    ):
        self.model, self.flat, self.loss_of, self.reseed = model, flat, loss_of, reseed
        self._levels: list[torch.Tensor] = []
        self._before = torch.empty_like(flat.buffers)

    def compute(self, step: int, shards: Iterable[Batch]) -> tuple[float, int]:
        """Leave the batch's gradient in the model and return (loss, fingerprint of the batch).

        Buffers of the model move on by one step.
        """
        flat, device = self.flat, self.flat.values.device
        self._before.copy_(flat.buffers)
        fingerprint = xxhash.xxh3_64()
        batches = list(shards)
        total = sum(len(labels) for _, labels in batches)
        counts_after: list[torch.Tensor] = []
        counts_before = [count.clone() for count in flat.counts]
        for shard, (inputs, labels) in enumerate(batches):
            flat.row.zero_()
            if len(labels):
                fingerprint.update(_bytes(inputs))
                fingerprint.update(_bytes(labels))
                self._restore(counts_before)
                self.reseed(step, shard)
                weight = len(labels) / total
                batch = _layout(inputs.to(device)), labels.to(device)
                loss = self.loss_of(self.model, batch) * weight
                loss.backward()
                start = flat.gradient.numel()
                torch.mul(flat.buffers, weight, out=flat.row[start:-1])
                flat.row[-1] = loss.detach()
                counts_after = counts_after or [count.clone() for count in flat.counts]
            self._add(shard, last=shard + 1 == len(batches))
        self._restore(counts_after)
        flat.buffers.copy_(flat.row[flat.gradient.numel() : -1])
        return float(flat.row[-1]), fingerprint.intdigest()

    def _restore(self, counts: list[torch.Tensor]) -> None:
        self.flat.buffers.copy_(self._before)
        for count, value in zip(self.flat.counts, counts, strict=True):
            count.copy_(value)

    def _add(self, shard: int, *, last: bool) -> None:
        """Carry a finished row up the tree, as 1 is added to a binary number.

        The sum so far of a left branch waits at its level until the right branch is complete; the
        last row to come in completes the root, which then stands in ``flat.row``.
        """
        row, level = self.flat.row, 0
        while shard >> level & 1:
            torch.add(self._levels[level], row, out=row)
            level += 1
        if last:
            return
        if level == len(self._levels):
            self._levels.append(torch.empty_like(row))
        self._levels[level].copy_(row)


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.contiguous().view(torch.uint8).numpy() if tensor.numel() else b""


def _layout(inputs: torch.Tensor) -> torch.Tensor:
    """Pictures lie channels last, as the weights do: convolutions are a fifth faster so."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
