"""The gradient of a batch: shard by shard, summed along one fixed binary tree."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import xxhash
from torch import nn

from lockstep.program import Batch
from lockstep.training.distributed import ALONE, Workers
from lockstep.training.parameters import FlatParameters

Step = tuple[int, Iterable[Batch]]  # samples in all shards, and the shards of this worker
Loss = Callable[[Any, Batch], Any]


class Outcome(NamedTuple):
    """What a step gave, the same in all workers: ``stops`` of them were asked to stop."""

    loss: float
    batch: int
    stops: int


class ShardedGradient:
    """Computes the gradient of a batch from its shards, whoever computes which of them.

    The sum over shards is ``((0+1)+(2+3))+((4+5)+(6+7))`` for eight, always: a worker has an
    aligned block of them, which is a whole branch of that tree. Float buffers (running statistics)
    and the loss take the same way, weighted by the samples of each shard; a buffer that no shard
    changed stays as it is. Whole-number buffers advance as in the last shard (the only one that no
    batch leaves empty).
    """

    def __init__(
        self,
        model: nn.Module,
        flat: FlatParameters,
        loss_of: Loss,
        reseed: Callable[[int, int], None],
        *,
        shards: int,
        workers: Workers = ALONE,
    ):
        self.model, self.flat, self.loss_of, self.reseed = model, flat, loss_of, reseed
        self.block, self.last, self.workers = workers.block(shards), shards - 1, workers
        self._levels: list[torch.Tensor] = []
        self._before = torch.empty_like(flat.buffers)
        self._moved = torch.empty_like(flat.buffers, dtype=torch.bool)

    def compute(self, step: int, samples: int, shards: Iterable[Batch], stop: bool) -> Outcome:
        """Leave the gradient of a batch of so many samples in the model.

        ``shards`` are those of this worker's block. Buffers of the model move on by one step.
        """
        flat, device = self.flat, self.flat.values.device
        self._before.copy_(flat.buffers)
        self._moved.zero_()
        counts = [count.clone() for count in flat.counts]
        fingerprints = 0
        for shard, (inputs, labels) in zip(self.block, shards, strict=True):
            flat.row.zero_()
            if len(labels):
                fingerprints += _fingerprint(shard, inputs, labels)
                self._restore(counts)
                self.reseed(step, shard)
                weight = len(labels) / samples
                batch = Batch(_layout(inputs.to(device)), labels.to(device))
                loss = self.loss_of(self.model, batch) * weight
                loss.backward()
                start = flat.gradient.numel()
                self._moved |= _bits(flat.buffers) != _bits(self._before)
                torch.mul(flat.buffers, weight, out=flat.sums[start:-1])
                flat.sums[-1] = loss.detach()
            self._add(shard - self.block.start, last=shard == self.block[-1])
        self._note(counts, fingerprints, stop)
        self.workers.all_reduce(flat.row)
        return self._conclude(counts)

    def _note(self, before: list[torch.Tensor], fingerprints: int, stop: bool) -> None:
        """Write into the row what all workers must know besides the sums."""
        notes = [float(fingerprints >> 16 * i & 0xFFFF) for i in range(4)] + [float(stop)]
        self.flat.notes[-5:] = torch.tensor(notes)
        if self.flat.sizes:
            parts = self._moved.split(self.flat.sizes)
            self.flat.moved.copy_(torch.stack([part.any() for part in parts]))
        if before and self.last in self.block:
            steps = [
                now.long() - old.long() for now, old in zip(self.flat.counts, before, strict=True)
            ]
            advance = torch.cat([step.flatten() for step in steps])
            for place, limb in enumerate(self.flat.limbs):
                limb.copy_(advance >> 16 * place & 0xFFFF)

    def _conclude(self, before: list[torch.Tensor]) -> Outcome:
        """Read from the finished row what the step gave, and move the buffers on."""
        flat, start = self.flat, 0
        flat.buffers.copy_(flat.sums[flat.gradient.numel() : -1])
        moved = flat.moved.tolist()
        if 0.0 in moved:
            # The sum of equal values is not the value: weights add up to 1 in most cases only.
            parts = (whole.split(flat.sizes) for whole in (flat.buffers, self._before))
            for shards, buffer, old in zip(moved, *parts, strict=True):
                if not shards:
                    buffer.copy_(old)
        advance = sum(limb.long() << 16 * place for place, limb in enumerate(flat.limbs))
        for count, old in zip(flat.counts, before, strict=True):
            assert isinstance(advance, torch.Tensor)
            count.copy_(old.long() + advance[start : start + count.numel()].view_as(old))
            start += count.numel()
        *limbs, stops = flat.notes[-5:].tolist()
        fingerprint = sum(int(limb) << 16 * i for i, limb in enumerate(limbs)) % 2**64
        return Outcome(float(flat.sums[-1]), fingerprint, int(stops))

    def _restore(self, counts: list[torch.Tensor]) -> None:
        self.flat.buffers.copy_(self._before)
        for count, value in zip(self.flat.counts, counts, strict=True):
            count.copy_(value)

    def _add(self, shard: int, *, last: bool) -> None:
        """Carry a finished row up the tree, as 1 is added to a binary number.

        The sum so far of a left branch waits at its level until the right branch is complete; the
        last row to come in completes the root, which then stands in ``flat.row``.
        """
        row, level = self.flat.sums, 0
        while shard >> level & 1:
            torch.add(self._levels[level], row, out=row)
            level += 1
        if last:
            return
        if level == len(self._levels):
            self._levels.append(torch.empty_like(row))
        self._levels[level].copy_(row)


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32)  # so that NaN equals itself, and -0 is not 0


def _fingerprint(shard: int, inputs: torch.Tensor, labels: torch.Tensor) -> int:
    """64 bits that tell the bytes of a shard; those of a batch are their sum modulo 2^64."""
    digest = xxhash.xxh3_64(seed=shard)
    digest.update(_bytes(inputs))
    digest.update(_bytes(labels))
    return digest.intdigest()


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.contiguous().view(torch.uint8).numpy() if tensor.numel() else b""


def _layout(inputs: torch.Tensor) -> torch.Tensor:
    """Pictures lie channels last, as the weights do: convolutions are a fifth faster so."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
