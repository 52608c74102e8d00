"""Reading a text."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.model import DataError, Text
from lockstep.model import Predictor as BasePredictor

from .config import Config
from .model import Model
from .preprocess import Preprocess

_COLUMNS = ("title", "description")
_LONGEST = 1 << 18  # characters of a row, of two cells as long as csv reads them


class Predictor(BasePredictor):
    """Title and description of a project, in two lines or in one, to its tag."""

    parts = (Config, Preprocess, Model)
    takes = Text(4096)

    def read(self, source: Any) -> NDArray[Any]:
        """The first 4,096 bytes of a text, padded with zeros."""
        if not isinstance(source, str) or not source.strip():
            raise DataError(f"text: found {source!r:.60}, expected words.")
        content = source.replace("\0", " ").encode(errors="replace")[: self.takes.longest]
        return np.frombuffer(content.ljust(self.takes.longest, b"\0"), np.uint8)

    def given(self, word: str) -> list[tuple[str, Any]]:
        """A text, or the rows of a CSV file with the columns title and description."""
        if not word.lower().endswith(".csv"):
            return [(word, word)]
        path = Path(word)
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                texts = list(self.table(file.read()))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{path}: no readable CSV file in UTF-8 ({reason}).") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        return [(f"{path.name}, row {number}", text) for number, text in enumerate(texts, 1)]

    def table(self, text: str) -> Iterator[str]:
        """The texts in a table's rows, each read when it is asked for.

        Raises DataError without columns title and description.
        """
        try:
            rows = _rows(text)
            places = {name: number for number, name in enumerate(next(rows, []))}
            if missing := [name for name in _COLUMNS if name not in places]:
                raise DataError(f"found no column {missing[0]}, expected {' and '.join(_COLUMNS)}.")
            expected = [places[name] for name in _COLUMNS]
            for row in rows:
                yield _joined(row[place] if place < len(row) else "" for place in expected)
        except csv.Error as error:
            raise DataError(f"found no readable CSV ({error}).") from error


def _rows(text: str) -> Iterator[list[str]]:
    """The rows of a table that are not blank, its head too.

    A row is read in one go, while nothing else of a server runs. Raises DataError for a long one.
    """
    size = 0

    def lines() -> Iterator[str]:
        nonlocal size
        for line in io.StringIO(text, newline=""):
            size += len(line)
            if size > _LONGEST:
                raise DataError(f"found a row of over {_LONGEST:,} characters, expected less.")
            yield line

    for row in csv.reader(lines()):
        size = 0
        if row:
            yield row


def _joined(cells: Iterable[str]) -> str:
    """Cells as the data set has them: a line for each."""
    return "\n".join(" ".join(cell.splitlines()) for cell in cells)
