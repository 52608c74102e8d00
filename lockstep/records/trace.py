"""The trace: a fingerprint of every step; it shows the first one at which two runs differ."""

import os
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from lockstep.ground.errors import RunError
from lockstep.ground.files import write_errors
from lockstep.records.receipt import Seen

# One record for each step, 48 bytes, little-endian; the columns stand in the order in which a
# difference arises: other samples, other bytes of them, another loss, gradient, weights.
RECORD = np.dtype(
    [("ids", "<u8"), ("batch", "<u8"), ("loss", "<f8"), ("gradient", "<u8"), ("weights", "V16")]
)


class Trace:
    """``trace.bin`` of a run in training.

    ``weights`` is a chain: xxh3_128 of the chain's last value and of all parameters and buffers, so
    equal last records mean equal weights at every step.
    """

    def __init__(self, path: Path, steps: int = 0):
        """Open the trace to go on after ``steps`` steps; records beyond are cut off."""
        self.path = path
        with write_errors(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        kept = os.pread(self._file, steps * RECORD.itemsize, 0)
        if len(kept) < steps * RECORD.itemsize:
            raise RunError(
                f"{path}: holds {len(kept) // RECORD.itemsize} steps, expected {steps}; it was cut."
            )
        self._chain = kept[-16:] if kept else bytes(16)
        self._prefix = xxhash.xxh3_128(kept)
        self._buffer = bytearray()
        with write_errors(path):
            os.ftruncate(self._file, len(kept))
            os.lseek(self._file, 0, os.SEEK_END)

    def append(
        self,
        ids: int,
        batch: int,
        loss: float,
        gradient: NDArray[np.float32],
        weights: list[NDArray[np.float32]],
    ) -> None:
        """Add the record of one step; it reaches the file at the next ``write``."""
        chain = xxhash.xxh3_128(self._chain)
        for values in weights:
            chain.update(values.data)
        # xxhash gives big-endian bytes, kept as they are: they are a name, not a number.
        self._chain = chain.digest()
        fingerprint = xxhash.xxh3_64_intdigest(gradient.data)
        record = np.array((ids, batch, loss, fingerprint, self._chain), RECORD).tobytes()
        self._prefix.update(record)
        self._buffer += record
        if len(self._buffer) >= 1 << 16:
            self.write()

    def digest(self) -> str:
        """A fingerprint of all records so far, which a checkpoint keeps to know its trace again."""
        return self._prefix.hexdigest()

    def write(self) -> None:
        """Hand what is buffered to the operating system."""
        with write_errors(self.path):
            while self._buffer:
                del self._buffer[: os.write(self._file, self._buffer)]

    def flush(self) -> None:
        """Wait until the disk has what was written; may be called from another thread."""
        with write_errors(self.path):
            os.fsync(self._file)

    def close(self) -> None:
        """Write what is left and close the file."""
        self.write()
        self.flush()
        os.close(self._file)


def read(path: Path) -> NDArray[np.void]:
    """All records of a trace, memory-mapped."""
    if not path.exists():
        return np.empty(0, RECORD)
    # A run in training may have written a part of its next record.
    steps = path.stat().st_size // RECORD.itemsize
    return np.memmap(path, RECORD, mode="r", shape=(steps,)) if steps else np.empty(0, RECORD)


def epochs_seen(path: Path, steps_per_epoch: int) -> list[Seen]:
    """The data receipt: for each epoch, the steps it had and a digest of the ids in order seen.

    ``ids_xxh3`` is xxh3_128 over the ``ids`` column of its steps, each of them the xxh3_64 of the
    step's sample numbers (int64, little-endian): anyone can work it out from the order alone.
    """
    column = read(path)["ids"]
    return [
        {
            "epoch": start // steps_per_epoch + 1,
            "steps": len(part := np.ascontiguousarray(column[start : start + steps_per_epoch])),
            "ids_xxh3": xxhash.xxh3_128_hexdigest(part.data),
        }
        for start in range(0, len(column), steps_per_epoch)
    ]
