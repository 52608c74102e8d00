"""The gradient of a batch: shard by shard, summed along one fixed binary tree."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import nn

from lockstep.ground.errors import ModelError
from lockstep.program import Batch, Losses, rows_of
from lockstep.training.distributed import ALONE, Workers
from lockstep.training.parameters import FlatParameters

Step = tuple[int, Iterable[Batch]]  # samples in all shards, and the shards of this worker
Loss = Callable[[Any, Batch], Any]
_AXES = 8  # of a representation, at most


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
    batch leaves empty). ``Losses`` are summed with what they count, and divided once, at the end.

    With ``represent``, the loss is one of the whole batch: of the representations of all shards,
    in order. Its gradient goes back through each shard by itself, which is computed again for that,
    so memory holds one shard at a time (GradCache: Gao et al., 2021). Only parameters in ``moves``
    (all, if it is None) get a gradient.
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
        represent: Loss | None = None,
        moves: frozenset[str] | None = None,
    ):
        self.model, self.flat, self.loss_of, self.reseed = model, flat, loss_of, reseed
        self.block, self.shards, self.workers = workers.block(shards), shards, workers
        self.represent, self.moves = represent, moves
        self._weighs: bool | None = None  # whether the loss is by example; not known before a call
        self._levels: list[torch.Tensor] = []
        self._rows: dict[int, torch.Tensor] = {}  # sums of branches, by their first shards
        self._before = torch.empty_like(flat.buffers)
        self._moved = torch.empty_like(flat.buffers, dtype=torch.bool)

    def alone(self, shards: int = 1) -> "ShardedGradient":
        """The same for a batch of another number of shards, all computed by this worker."""
        return ShardedGradient(
            self.model,
            self.flat,
            self.loss_of,
            self.reseed,
            shards=shards,
            represent=self.represent,
            moves=self.moves,
        )

    def compute(self, step: int, samples: int, shards: Iterable[Batch], stop: bool) -> Outcome:
        """Leave the gradient of a batch of so many samples in the model.

        ``shards`` are those of this worker's block. Buffers of the model move on by one step.
        """
        flat, rows = self.flat, dict[int, torch.Tensor]()
        self._before.copy_(flat.buffers)
        self._moved.zero_()
        counts = [count.clone() for count in flat.counts]
        fingerprints = 0
        shards = list(shards)
        branches = self.workers.branches(self.block)
        with self._moving():
            whole = self._whole(step, samples, shards, counts) if self.represent else None
            for shard, batch in zip(self.block, shards, strict=True):
                if rows_of(batch.target):
                    fingerprints += _fingerprint(shard, batch)
                branch = branches[len(rows)]
                self._sum(step, samples, shard, batch, counts, whole)
                self._add(shard - branch.start, last=shard == branch[-1])
                if shard == branch[-1]:
                    rows[branch.start] = self._keep(branch)
        self._note(counts, fingerprints, stop)
        flat.row.copy_(self.workers.all_reduce(rows, self.shards))
        return self._conclude(counts)

    def _sum(
        self,
        step: int,
        samples: int,
        shard: int,
        batch: Batch,
        counts: list[torch.Tensor],
        whole: "_Whole | None",
    ) -> None:
        """Leave in the row what one shard adds to the sums."""
        flat, rows = self.flat, rows_of(batch.target)
        flat.row.zero_()
        if whole and shard == 0:
            whole.begin(flat)
        if not rows:
            return
        self._begin(step, shard, counts)
        place, share = _on(batch, flat.values.device), rows / samples
        if whole:
            start = samples * shard // self.shards
            self._represented(place, rows).backward(whole.slope[start : start + rows])
        else:
            self._backward(place, share)
        self._moved |= _bits(flat.buffers) != _bits(self._before)
        torch.mul(flat.buffers, share, out=flat.sums[flat.gradient.numel() : -1])

    def _keep(self, branch: range) -> torch.Tensor:
        """Return the sums of a branch: for the last one the row itself, which stays as it is."""
        if branch[-1] == self.block[-1]:
            return self.flat.row
        if branch.start not in self._rows:
            self._rows[branch.start] = torch.empty_like(self.flat.row)
        return self._rows[branch.start].copy_(self.flat.row)

    def _backward(self, batch: Batch, share: float) -> None:
        """Form the gradient of a shard, and note its loss, and what it counts."""
        value = self._valued(self.loss_of(self.model, batch), rows_of(batch.target))
        if isinstance(value, Losses):
            loss, weight = (value.values * value.weights).sum(), value.weights.sum()
            self.flat.weight.copy_(weight.detach())
        else:
            loss = value * share
        if not loss.requires_grad:
            raise ModelError(
                "loss: returned a value that depends on no parameter, expected one that gradients "
                "flow through (no .item(), .detach() or argmax on the way; gradients switched on)."
            )
        loss.backward()
        self.flat.sums[-1] = loss.detach()

    def _valued(self, value: Any, rows: int) -> Any:
        """Return a scalar, or complete ``Losses``. Raises ModelError for anything else."""
        if isinstance(value, torch.Tensor) and value.dim() == 1:
            value = Losses(value)
        if isinstance(value, Losses):
            weights = value.weights
            weights = (
                torch.ones_like(value.values) if weights is None else weights.to(torch.float32)
            )
            if value.values.shape != (rows,) or weights.shape != (rows,):
                raise ModelError(
                    f"loss: found values of shape {tuple(value.values.shape)} and weights of shape "
                    f"{tuple(weights.shape)}, expected one of each for {rows} examples."
                )
            value = Losses(value.values, weights.detach())
        elif not (isinstance(value, torch.Tensor) and value.dim() == 0):
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else ""
            raise ModelError(
                f"loss: returned {type(value).__name__}{shape}, expected a scalar, the mean over "
                "the examples, or a value for each of them (n,)."
            )
        if self._weighs is None:
            self._weighs = isinstance(value, Losses)
        if self._weighs != isinstance(value, Losses):
            raise ModelError(
                "loss: returned a scalar for one shard and values for another, expected the same "
                "for all."
            )
        return value

    def _represented(self, batch: Batch, rows: int) -> torch.Tensor:
        assert self.represent
        found = self.represent(self.model, batch)
        if not isinstance(found, torch.Tensor) or found.dtype != torch.float32:
            kind = found.dtype if isinstance(found, torch.Tensor) else type(found).__name__
            raise ModelError(f"represent: returned {kind}, expected a tensor (n, ...) of float32.")
        if len(found) != rows or found.dim() > _AXES:
            raise ModelError(
                f"represent: returned shape {tuple(found.shape)}, expected one row for each of "
                f"{rows} examples, and at most {_AXES} axes."
            )
        return found

    def _whole(
        self, step: int, samples: int, shards: list[Batch], counts: list[torch.Tensor]
    ) -> "_Whole":
        """Represent all shards, and take the one loss of them all back to each representation."""
        mine, device = [], self.flat.values.device
        with torch.no_grad():
            for shard, batch in zip(self.block, shards, strict=True):
                if rows := rows_of(batch.target):
                    self._begin(step, shard, counts)
                    mine.append(self._represented(_on(batch, device), rows).cpu())
        self._restore(counts)
        everything = self._gathered(samples, mine).to(device).requires_grad_()
        targets = [batch.target for batch in shards]
        if isinstance(targets[0], dict):
            target: Any = {
                name: self._gathered(samples, [one[name] for one in targets]).to(device)
                for name in targets[0]
            }
        else:
            target = self._gathered(samples, targets).to(device)
        self.flat.row.zero_()
        self.reseed(step, self.shards)
        loss = self._valued(self.loss_of(self.model, Batch(everything, target)), samples)
        if isinstance(loss, Losses):
            loss = (loss.values * loss.weights).sum() / loss.weights.sum()
        loss.backward()
        if everything.grad is None:
            raise ModelError(
                "loss: does not depend on the representations that `represent` makes, its inputs."
            )
        self._restore(counts)
        return _Whole(everything.grad, self.flat.gradient.clone(), loss.detach())

    def _gathered(self, samples: int, mine: list[torch.Tensor]) -> torch.Tensor:
        """Return the rows (samples, ...) of all workers, of which this one has a part."""
        if self.workers.count == 1:
            return torch.cat(mine)
        shape = np.zeros((self.workers.count, _AXES + 1), np.float32)
        if mine:
            shape[self.workers.rank, : mine[0].dim()] = [mine[0].dim(), *mine[0].shape[1:]]
        axes, *sizes = self.workers.all_gather(shape).max(axis=0).astype(int).tolist()
        dtype = mine[0].dtype if mine else torch.float32
        everything = torch.zeros((samples, *sizes[: axes - 1]), dtype=dtype)
        start = samples * self.block.start // self.shards
        for rows in mine:
            everything[start : start + len(rows)] = rows
            start += len(rows)
        if everything.numel():  # as bytes, which are exact for any type
            self.workers.all_gather(everything.view(-1).view(torch.uint8).numpy())
        return everything

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Let only those parameters have a gradient that this update moves."""
        others = (
            [p for name, p in self.flat.named.items() if name not in self.moves]
            if self.moves is not None
            else []
        )
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _note(self, before: list[torch.Tensor], fingerprints: int, stop: bool) -> None:
        """Write into the row what all workers must know besides the sums."""
        notes = [float(fingerprints >> 16 * i & 0xFFFF) for i in range(4)] + [float(stop)]
        self.flat.notes[-5:] = torch.tensor(notes)
        if self.flat.sizes:
            parts = self._moved.split(self.flat.sizes)
            self.flat.moved.copy_(torch.stack([part.any() for part in parts]))
        if before and self.shards - 1 in self.block:
            steps = [
                now.long() - old.long() for now, old in zip(self.flat.counts, before, strict=True)
            ]
            advance = torch.cat([step.flatten() for step in steps])
            for place, limb in enumerate(self.flat.limbs):
                limb.copy_(advance >> 16 * place & 0xFFFF)

    def _conclude(self, before: list[torch.Tensor]) -> Outcome:
        """Read from the finished row what the step gave, and move the buffers on."""
        flat, start = self.flat, 0
        if weight := float(flat.weight):  # 0 for losses that are means already
            flat.gradient.div_(weight)
            flat.sums[-1].div_(weight)
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

    def _begin(self, step: int, shard: int, counts: list[torch.Tensor]) -> None:
        """Give a shard the buffers before the step, and the chance that is its own."""
        self._restore(counts)
        self.reseed(step, shard)

    def _restore(self, counts: list[torch.Tensor]) -> None:
        self.flat.buffers.copy_(self._before)
        for count, value in zip(self.flat.counts, counts, strict=True):
            count.copy_(value)

    def _add(self, shard: int, *, last: bool) -> None:
        """Carry a finished row up the tree, as 1 is added to a binary number.

        The sum so far of a left branch waits at its level until the right branch is complete; the
        last row to come in completes the root, which then stands in ``flat.row``.
        """
        row, level = self.flat.carried, 0
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


class _Whole(NamedTuple):
    """Of a loss of the whole batch: its gradients, by representations and parameters, and it."""

    slope: torch.Tensor
    direct: torch.Tensor
    loss: torch.Tensor

    def begin(self, flat: FlatParameters) -> None:
        """Begin the sum over shards with what belongs to none of them."""
        flat.gradient.copy_(self.direct)
        flat.sums[-1] = self.loss


def _fingerprint(shard: int, batch: Batch) -> int:
    """64 bits that tell the bytes of a shard; those of a batch are their sum modulo 2^64."""
    digest = xxhash.xxh3_64(seed=shard)
    for fields in batch:
        for tensor in fields.values() if isinstance(fields, dict) else (fields,):
            digest.update(_bytes(tensor))
    return digest.intdigest()


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.contiguous().view(torch.uint8).numpy() if tensor.numel() else b""


def _on(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device, pictures in the layout of the weights."""
    fields = [
        (
            {name: value.to(device) for name, value in one.items()}
            if isinstance(one, dict)
            else one.to(device)
        )
        for one in batch
    ]
    inputs, target = fields
    if isinstance(inputs, dict):
        return Batch({name: _layout(value) for name, value in inputs.items()}, target)
    return Batch(_layout(inputs), target)


def _layout(inputs: torch.Tensor) -> torch.Tensor:
    """Pictures lie channels last, as the weights do: convolutions are a fifth faster so."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
