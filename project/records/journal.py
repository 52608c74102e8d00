"""``metrics.jsonl``: one line for each epoch, the same bytes however often the run was killed."""

import json
import os
from pathlib import Path
from typing import Any

from project.files import canonical_json, told_in_one_line


class Journal:
    """The metrics of a run in training, to go on after ``step``; later lines are cut off."""

    def __init__(self, path: Path, step: int = 0):
        self.path = path
        with told_in_one_line(path):
            self._file = path.open("a+b")
            self._file.seek(0)
            length = 0
            for line in self._file:
                # The last line may be torn; what it would have said will be said again.
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
                length += len(line)
            self._file.truncate(length)
            self._file.seek(0, os.SEEK_END)

    def append(self, row: dict[str, Any]) -> None:
        """Add a line and hand it to the operating system."""
        with told_in_one_line(self.path):
            self._file.write(canonical_json(row) + b"\n")
            self._file.flush()

    def flush(self) -> None:
        """Wait until the disk has it; may be called from another thread."""
        with told_in_one_line(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()
