"""``metrics.jsonl``: one line for each epoch, the same bytes however often the run was killed."""

import json
import os
from pathlib import Path

import xxhash

from lockstep.ground.digests import canonical_json
from lockstep.ground.errors import RunError
from lockstep.ground.files import write_errors
from lockstep.ground.watch import Row


class Journal:
    """The metrics of a run in training, to go on after ``step``; later lines are cut off.

    Raises RunError if a line before them is not readable.
    """

    def __init__(self, path: Path, step: int = 0):
        self.path = path
        with write_errors(path):
            self._file = path.open("a+b")
            self._file.seek(0)
            lines = self._file.readlines() if step else []
        kept = []
        for number, line in enumerate(lines, 1):
            # The last line may be torn; what it would have said will be said again.
            if not line.endswith(b"\n") or self._step(number, line) > step:
                break
            kept.append(line)
        self._digest = xxhash.xxh3_128(b"".join(kept))
        with write_errors(path):
            self._file.truncate(sum(map(len, kept)))
            self._file.seek(0, os.SEEK_END)

    def _step(self, number: int, line: bytes) -> int:
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            self._file.close()
            raise RunError(
                f"{self.path}: line {number} is not readable; it was altered."
            ) from error

    def digest(self) -> str:
        """A fingerprint of all lines so far, which a checkpoint keeps to know its metrics again."""
        return self._digest.hexdigest()

    def append(self, row: Row) -> None:
        """Add a line and hand it to the operating system."""
        line = canonical_json(row) + b"\n"
        self._digest.update(line)
        with write_errors(self.path):
            self._file.write(line)
            self._file.flush()

    def flush(self) -> None:
        """Wait until the disk has it; may be called from another thread."""
        with write_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()
