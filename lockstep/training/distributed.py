"""Workers: processes that share the shards of every batch, on one machine or on many."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.ground.errors import EnvironmentMismatch, WorkerLost
from lockstep.ground.processes import is_worker

Number = TypeVar("Number", bound=np.generic)

# How long a worker waits for a sign of life of another before it takes that one for lost. (A
# process that ends is noticed at once; this is for a machine that was cut off.)
PATIENCE = float(os.environ.get("LOCKSTEP_PATIENCE", 600))


class Workers:
    """The workers of a run, of which this process is number ``rank`` of ``count``.

    The first keeps the run's files. A ``spare`` one has no part in the work: it stands by where
    there are more workers than shards.

    All workers come to each sum or gathering at about the same time; a meeting or a broadcast may
    have to wait for one that sets up for an hour, or for the first one that waits for a lock. So
    its limit is not a time but the ``pulse``.
    """

    def __init__(
        self, rank: int = 0, count: int = 1, group: Any = None, pulse: "Pulse | None" = None
    ):
        self.rank, self.count = rank, count
        self.first, self.spare = rank == 0, rank >= count
        self._group, self._pulse = group, pulse
        self._theirs = torch.empty(0)

    def block(self, shards: int) -> range:
        """The shards of each batch that this worker computes, side by side."""
        return self._block(self.rank, shards)

    def _block(self, rank: int, shards: int) -> range:
        return range(shards * rank // self.count, shards * (rank + 1) // self.count)

    def branches(self, block: range) -> list[range]:
        """Cut a block into the largest whole branches of the tree of shards, from left to right."""
        if self.count == 1:
            return [block]
        branches, start = [], block.start
        while start < block.stop:
            size = 1 << (block.stop - start).bit_length() - 1
            size = min(size, start & -start or size)
            branches.append(range(start, start + size))
            start += size
        return branches

    def all_reduce(self, rows: dict[int, torch.Tensor], shards: int) -> torch.Tensor:
        """Add up the sums of all workers along the upper levels of the tree, and return the root.

        ``rows`` are this worker's own, by the first shard of each of its branches; they are
        overwritten. If each worker has one branch, and all are as large, two of them exchange their
        sums on each level. Both then hold the same bits, because a + b = b + a; only the grouping
        of a sum matters, and that is the tree's.
        """
        if self.count == 1:
            (root,) = rows.values()
            return root
        mine = next(iter(rows.values()))
        if self._theirs.shape != mine.shape:
            self._theirs = torch.empty_like(mine)
        with _losing_nobody():
            if shards % self.count or self.count & self.count - 1:
                return self._to_the_root(rows, shards)
            return self._exchange(mine)

    def _exchange(self, row: torch.Tensor) -> torch.Tensor:
        import torch.distributed as dist

        for level in range(self.count.bit_length() - 1):
            partner = self.rank ^ (1 << level)
            exchange = [
                dist.P2POp(dist.isend, row, partner, self._group),
                dist.P2POp(dist.irecv, self._theirs, partner, self._group),
            ]
            for request in dist.batch_isend_irecv(exchange):
                request.wait()
            row.add_(self._theirs)
        return row

    def _to_the_root(self, rows: dict[int, torch.Tensor], shards: int) -> torch.Tensor:
        """Bring the sums of two branches together where the left one begins; the first has all."""
        import torch.distributed as dist

        owners = [rank for rank in range(self.count) for _ in self._block(rank, shards)]
        size = 1
        while size < shards:
            for left in range(0, shards, 2 * size):
                right = left + size
                mine, other = owners[left], owners[right]
                if mine == owners[right + size - 1]:
                    continue  # a whole branch of one worker, or a part of one
                if self.rank == mine:
                    term = rows.pop(right) if mine == other else self._theirs
                    if mine != other:
                        dist.recv(term, other, self._group)
                    rows[left].add_(term)
                elif self.rank == other:
                    dist.send(rows.pop(right), mine, self._group)
            size *= 2
        root = rows[0] if self.first else self._theirs
        dist.broadcast(root, 0, group=self._group)
        return root

    def all_gather(self, rows: NDArray[Number]) -> NDArray[Number]:
        """All rows, in place, of which every worker has filled some and left the others 0.

        Each byte comes from one worker and is added to zeros, which is exact in any order.
        """
        if self.count == 1:
            return rows
        import torch.distributed as dist

        with _losing_nobody():
            content = torch.from_numpy(rows.reshape(-1).view(np.uint8))
            dist.all_reduce(content, group=self._group)
        return rows

    def any(self, mine: bool) -> bool:
        """Whether it is so in any of the workers."""
        if self.count == 1:
            return mine
        import torch.distributed as dist

        with _losing_nobody():
            sum_of_all = torch.tensor([int(mine)])
            dist.all_reduce(sum_of_all, group=self._group)
        return bool(sum_of_all.item())

    def broadcast(self, *tensors: torch.Tensor) -> None:
        """Give all workers what the first has in these tensors, however long it takes them."""
        if self.count == 1:
            return
        self.meet()
        import torch.distributed as dist

        with _losing_nobody():
            for tensor in tensors:
                dist.broadcast(tensor, 0, group=self._group)

    def broadcast_bytes(self, content: bytes = b"") -> bytes:
        """Return what the first worker says here, however long it takes it to come here."""
        if self.count == 1:
            return content
        self.meet()
        import torch.distributed as dist

        with _losing_nobody():
            length = torch.tensor([len(content)])
            dist.broadcast(length, 0, group=self._group)
            said = torch.zeros(int(length), dtype=torch.uint8)
            if self.first:
                said.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            dist.broadcast(said, 0, group=self._group)
        return said.numpy().tobytes()

    def meet(self) -> None:
        """Wait until all workers have come here, as long as all of them live."""
        if self._pulse:
            self._pulse.meet(range(self.count))


class Pulse:
    """A thread of each worker that tells the others that this one lives.

    Again and again, all threads sum up a row of numbers: how many meetings each worker has come to.
    The sum fails at once where a process has ended, and after ``PATIENCE`` where a machine was cut
    off, whatever the workers are busy with meanwhile.
    """

    def __init__(self, rank: int, count: int):
        import torch.distributed as dist

        self._rank, self._mine, self._all = rank, 0, [0] * count
        self._group = dist.new_group(timeout=timedelta(seconds=PATIENCE), backend="gloo")
        self._lost: RuntimeError | None = None
        self._news, self._hurry = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()

    def meet(self, ranks: range) -> None:
        """Return when all of these workers have called this as often as this one.

        Raises WorkerLost if one of them cannot.
        """
        self._mine += 1
        self._wait(lambda: min(self._all[rank] for rank in ranks) >= self._mine)

    def end(self) -> None:
        """Return when all workers have called this."""
        self._mine = _ENDED
        self._wait(lambda: min(self._all) == _ENDED)
        self._thread.join()

    def _wait(self, come: Callable[[], bool]) -> None:
        self._hurry.set()
        with self._news:
            self._news.wait_for(lambda: come() or self._lost)
        if self._lost:
            with _losing_nobody():
                raise self._lost

    def _beat(self) -> None:
        import torch.distributed as dist

        pause, longest = 0.0, min(PATIENCE / 4, 5)
        while min(self._all) < _ENDED and not self._lost:
            row = torch.zeros(len(self._all), dtype=torch.int64)
            row[self._rank] = self._mine
            try:
                dist.all_reduce(row, group=self._group)
            except RuntimeError as error:
                self._lost = error
            else:
                self._all = row.tolist()
            with self._news:
                self._news.notify_all()
            somebody_waits = min(self._all) < max(self._all)
            pause = min(max(2 * pause, 0.01), 1, longest) if somebody_waits else longest
            if self._hurry.wait(0 if min(self._all) == _ENDED else pause):
                self._hurry.clear()
                pause = 0.0


_ENDED = 1 << 40  # meetings


ALONE = Workers()


@contextmanager
def joined(shards: int, device: str) -> Iterator[Workers]:
    """Join the other workers of the run, if torchrun (or a like starter) started any.

    Leaves when all of them are done. Raises WorkerLost when another one is gone, in order to be
    started again, and EnvironmentMismatch if there is no GPU for this one.
    """
    if not is_worker() or os.environ["WORLD_SIZE"] == "1":  # one may be all that is left
        yield Workers()
        return
    import torch.distributed as dist

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise EnvironmentMismatch(
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE: found none, expected 1; without it torchrun can't "
            "start workers again after one has died. Export it before torchrun."
        )
    if device == "cuda":
        mine, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if mine >= there:
            raise EnvironmentMismatch(
                f"training.workers: found {there} GPUs, expected one for each worker of this "
                "machine; start fewer (--workers N)."
            )
        torch.cuda.set_device(mine)
    patience = timedelta(seconds=PATIENCE)
    with _losing_nobody():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=patience
        )
        count = min(dist.get_world_size(), shards)
        # Every worker makes every group, also those that it has no part in.
        group = dist.new_group(range(count), timeout=patience)
        pulse = Pulse(dist.get_rank(), dist.get_world_size())
    yield Workers(dist.get_rank(), count, group, pulse)
    pulse.end()
    with _losing_nobody():
        dist.destroy_process_group()


@contextmanager
def _losing_nobody() -> Iterator[None]:
    """Turn what torch says of a broken connection into WorkerLost."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(
            "another worker ended, or its machine did not answer for "
            f"{PATIENCE:g} s (LOCKSTEP_PATIENCE)"
        ) from error
