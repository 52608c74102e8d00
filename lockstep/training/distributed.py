"""Workers: processes that share the shards of every batch, on one machine or on many."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.ground.errors import EnvironmentMismatch, WorkerLost
from lockstep.ground.processes import is_worker

# How long a worker waits for the answer of another before it takes that one for dead. (A process
# that ends is noticed at once; this is for a machine that was cut off.)
PATIENCE = float(os.environ.get("LOCKSTEP_PATIENCE", 600))


class Workers:
    """The workers of a run, of which this process is number ``rank`` of ``count``.

    ``count`` is a power of two. The first keeps the run's files. A ``spare`` one has no part in
    the work: it stands by for when the number of workers is no power of two.
    """

    def __init__(self, rank: int = 0, count: int = 1, group: Any = None, unhurried: Any = None):
        self.rank, self.count = rank, count
        self.first, self.spare = rank == 0, rank >= count
        self._group, self._unhurried = group, unhurried
        self._theirs = torch.empty(0)

    def block(self, shards: int) -> range:
        """The shards of each batch that this worker computes: a whole branch of the tree."""
        size = shards // self.count
        return range(self.rank * size, (self.rank + 1) * size)

    def all_reduce(self, row: torch.Tensor) -> None:
        """Add up the rows of all workers, in place, along the upper levels of the tree.

        On each level two branches exchange their sums. Both then hold the same bits, because
        a + b = b + a; only the grouping of a sum matters, and that is the tree's.
        """
        if self.count == 1:
            return
        import torch.distributed as dist

        if self._theirs.shape != row.shape:
            self._theirs = torch.empty_like(row)
        with _losing_nobody():
            for level in range(self.count.bit_length() - 1):
                partner = self.rank ^ (1 << level)
                exchange = [
                    dist.P2POp(dist.isend, row, partner),
                    dist.P2POp(dist.irecv, self._theirs, partner),
                ]
                for request in dist.batch_isend_irecv(exchange):
                    request.wait()
                row.add_(self._theirs)

    def all_gather(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """All rows, of which every worker has filled some and left the others 0.

        Each row comes from one worker and is added to zeros, which is exact in any order.
        """
        if self.count == 1:
            return rows
        import torch.distributed as dist

        with _losing_nobody():
            dist.all_reduce(torch.from_numpy(rows), group=self._group)
        return rows

    def broadcast(self, *tensors: torch.Tensor) -> None:
        """Give all workers what the first has in these tensors."""
        if self.count == 1:
            return
        import torch.distributed as dist

        with _losing_nobody():
            for tensor in tensors:
                dist.broadcast(tensor, 0, group=self._group)

    def broadcast_bytes(self, content: bytes = b"") -> bytes:
        """What the first worker says here, however long it takes it (it may wait for a lock)."""
        if self.count == 1:
            return content
        import torch.distributed as dist

        with _losing_nobody():
            length = torch.tensor([len(content)])
            dist.broadcast(length, 0, group=self._unhurried)
            said = torch.zeros(int(length), dtype=torch.uint8)
            if self.first:
                said.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            dist.broadcast(said, 0, group=self._unhurried)
        return said.numpy().tobytes()


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
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE: found none, wanted 1; without it torchrun cannot "
            "start workers again after one has died. Export it before torchrun."
        )
    if device == "cuda":
        mine, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if mine >= there:
            raise EnvironmentMismatch(
                f"training.workers: found {there} GPUs, wanted one for each worker of this "
                "machine; start fewer (--workers N)."
            )
        torch.cuda.set_device(mine)
    with _losing_nobody():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            timeout=timedelta(seconds=PATIENCE),
        )
        count = 1 << (min(dist.get_world_size(), shards).bit_length() - 1)
        # Every worker makes every group, also those that it has no part in.
        group = dist.new_group(range(count))
        unhurried = dist.new_group(range(count), timeout=timedelta(days=365), backend="gloo")
        everyone = dist.new_group(timeout=timedelta(days=365), backend="gloo")
    workers = Workers(dist.get_rank(), count, group, unhurried)
    yield workers
    with _losing_nobody():
        dist.barrier(everyone)
        dist.destroy_process_group()


@contextmanager
def _losing_nobody() -> Iterator[None]:
    """Turn what torch says of a broken connection into WorkerLost."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WorkerLost(f"another worker is gone ({reason})") from error
