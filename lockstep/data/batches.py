"""Batches as a function of (seed, step, shard), without state between them."""

import signal
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lockstep.data.dataset import Split
from lockstep.data.sampling import order_of
from lockstep.ground.digests import key_of
from lockstep.ground.errors import LockstepError, SettingError
from lockstep.ground.generators import reseed
from lockstep.program import Batch, Sampling

Step = tuple[int, Iterable[Batch]]  # samples in the whole batch, and shards of it
Steps = Generator[Step, None, None]
Encode = Callable[[NDArray[Any], torch.Generator], torch.Tensor]

_IDS_AHEAD = 4096  # evaluated at once, because a NumPy call costs as much for 4,096 ids as for 50


class Batches:
    """The training batches of a run, each cut into ``shards`` blocks of nearly equal size.

    ``encode(raw, generator)`` turns raw examples (n, ...) into inputs (n, ...); what it does at
    random it takes from the generator, which is seeded for (seed, step, shard).
    """

    def __init__(
        self,
        split: Split,
        encode: Encode,
        *,
        batch_size: int,
        shards: int,
        seed: int,
        sampling: Sampling | None = None,
        drop_last: bool = False,
    ):
        self.split, self.encode = split, encode
        self.batch_size, self.shards, self.seed = batch_size, shards, seed
        if drop_last and len(split) < batch_size:
            raise SettingError(
                f"data.drop_last: found {len(split)} training examples, fewer than "
                f"training.batch_size {batch_size}, expected a whole batch; make it smaller."
            )
        # Examples that are drawn in an epoch.
        self._size = len(split) // batch_size * batch_size if drop_last else len(split)
        self.steps_per_epoch = -(-self._size // batch_size)
        self._generator = torch.Generator()
        self._order_of = order_of(sampling, len(split), batch_size=batch_size, seed=seed)
        self._order = (-1, self._order_of(0))
        self._ahead = (0, 0, np.empty(0, np.int64))  # epoch, first position, ids from there on

    def ids(self, step: int) -> NDArray[np.int64]:
        """Return the samples of a step, in the order that the run sees them."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        stop = min(start + self.batch_size, self._size)
        known_epoch, first, ids = self._ahead
        if epoch != known_epoch or start < first or stop > first + len(ids):
            if self._order[0] != epoch:
                self._order = (epoch, self._order_of(epoch))
            ids = self._order[1].at(start, max(stop, min(start + _IDS_AHEAD, self._size)))
            self._ahead, first = (epoch, start, ids), start
        return ids[start - first : stop - first]

    def ids_digest(self, step: int) -> int:
        """Return the fingerprint of a step's ids, 64 bits."""
        return xxhash.xxh3_64_intdigest(self.ids(step).data)

    def at(self, step: int, shard: int) -> Batch:
        """Return one shard of a step's batch; empty if the batch has fewer samples than shards."""
        ids = self.ids(step)
        start, stop = (len(ids) * edge // self.shards for edge in (shard, shard + 1))
        chosen = ids[start:stop]
        key = key_of(self.seed, "augment", step, shard)
        self._generator.manual_seed(key)
        reseed(key)  # for code that draws from global generators
        target = torch.from_numpy(self.split.target[chosen])
        return Batch(self.encode(self.split.inputs[chosen], self._generator), target)

    def steps(self, first: int, last: int, block: range, loaders: int = 0) -> Steps:
        """Yield the steps from ``first`` up to ``last``: number of samples and the block's shards.

        With ``loaders``, background processes assemble them: the path for examples that need
        Python, one by one, to decode. A batch is a function of its place, so it has the same bits
        whoever assembles it, however many they are. A mistake that one of them meets, such as
        DataError, is raised here as it was, at its step. Closing the steps ends the processes.
        """
        if loaders == 0:
            return (
                (len(self.ids(step)), (self.at(step, shard) for shard in block))
                for step in range(first, last)
            )
        return self._loaded(_Steps(self, first, last, block), loaders)

    def _loaded(self, steps: "_Steps", loaders: int) -> Steps:
        # No batch size: each item of the data set is a whole step already.
        for step in DataLoader(steps, None, num_workers=loaders, worker_init_fn=_leave_signals):
            if isinstance(step, LockstepError):
                raise step
            yield step


def _leave_signals(_: int) -> None:
    """Signals reach all processes of a terminal or group; the one that trains decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Steps(Dataset[Step | LockstepError]):
    """The steps of a run as a data set for torch's DataLoader.

    A mistake is handed over in the place of its step: what is raised in a loader, torch would
    raise again with the loader's traceback for a message.
    """

    def __init__(self, batches: Batches, first: int, last: int, block: range):
        self.batches, self.first, self.last, self.block = batches, first, last, block

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Step | LockstepError:
        step = self.first + index
        try:
            shards = [self.batches.at(step, shard) for shard in self.block]
        except LockstepError as mistake:
            return mistake
        return len(self.batches.ids(step)), shards


@dataclass(frozen=True)
class Blocks:
    """A split in order, in blocks of ``size`` rows, for evaluation."""

    split: Split
    encode: Callable[[NDArray[Any]], torch.Tensor]
    size: int

    def __len__(self) -> int:
        return -(-len(self.split) // self.size)

    def __getitem__(self, number: int) -> torch.Tensor:
        """The inputs of a block."""
        return self.encode(np.array(self.split.inputs[self.rows(number)]))

    def rows(self, number: int) -> slice:
        """The rows of the split that a block has."""
        return slice(number * self.size, min((number + 1) * self.size, len(self.split)))

    def targets(self, number: int) -> NDArray[Any]:
        """The targets of a block."""
        return np.array(self.split.target[self.rows(number)])

    @property
    def target(self) -> NDArray[Any]:
        """The targets of all rows."""
        return np.array(self.split.target)
