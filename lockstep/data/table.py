"""Tables with a label column: CSV and Parquet, of text or of numbers."""

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.problems import Problems
from lockstep.data.split import Examples
from lockstep.ground.errors import DataError, nearest

_LINE_END = re.compile(r"\r\n|\r|\n")
Row = tuple[str, dict[str, Any]]  # its place, as "line 7", and its cells by column


@dataclass(frozen=True)
class Columns:
    """The columns that count: either ``text`` or ``numbers``, the label, and perhaps an id."""

    label: str
    text: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    id: str | None = None

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.text, *self.numbers, self.label, *([self.id] if self.id else [])]


def read(path: Path, name: str, columns: Columns, problems: Problems) -> Examples:
    """Return the valid rows of a table; the errors of the others go to ``problems``.

    Text becomes bytes of UTF-8, padded with zeros to the longest row: uint8 (rows, width). The
    columns are joined by line ends, and line ends within one become spaces, so the first line is
    the first column. Numbers become float32 (rows, columns). The key is of the id or, where no
    column is named for it, of the row's input. ``name`` is the file's, wherever its bytes lie.
    """
    rows = (_parquet if is_parquet(name) else _csv)(path, name, columns, problems)
    inputs: list[bytes] = []
    labels, ids, places = [], [], []
    for where, cells in rows:
        place, wrong = f"{name}, {where}", Problems()
        present = [column for column in columns.names if column in cells]
        for column in present:
            _check(place, column, cells[column], wrong)
        content = b"" if wrong else _content(place, columns, cells, wrong)
        problems.take(wrong)
        if wrong or len(present) < len(columns.names):
            continue
        inputs.append(content)
        labels.append(str(cells[columns.label]))
        ids.append(str(cells[columns.id]).encode() if columns.id else content)
        places.append(place)
    keys, contents = ([sha256(one).digest() for one in many] for many in (ids, inputs))
    return Examples(_array(inputs, columns), labels, keys, contents, places)


def _array(inputs: Sequence[bytes], columns: Columns) -> NDArray[Any]:
    if columns.numbers:
        return np.frombuffer(b"".join(inputs), np.float32).reshape(-1, len(columns.numbers))
    width = max(map(len, inputs), default=0)
    array = np.zeros((len(inputs), width), np.uint8)
    for row, content in zip(array, inputs, strict=True):
        row[: len(content)] = np.frombuffer(content, np.uint8)
    return array


def _check(place: str, column: str, cell: Any, problems: Problems) -> None:
    """Report what is not allowed in any cell."""
    if isinstance(cell, str) and any("\udc80" <= letter <= "\udcff" for letter in cell):
        problems.add(place, f"{column} is not in UTF-8; store the file in that encoding")
    elif isinstance(cell, str) and "\0" in cell:
        problems.add(place, f"{column} has a zero byte, expected text")


def _content(place: str, columns: Columns, cells: dict[str, Any], problems: Problems) -> bytes:
    """Return the input of a row as bytes, after checking label and id."""
    for column in (columns.label, columns.id):
        if column in cells and not str("" if cells[column] is None else cells[column]).strip():
            problems.add(place, f"{column} is empty, expected a value")
    if columns.numbers:
        numbers = [_number(place, c, cells[c], problems) for c in columns.numbers if c in cells]
        return np.array(numbers, np.float32).tobytes()
    if not all(column in cells for column in columns.text):
        return b""
    texts = ["" if cells[column] is None else cells[column] for column in columns.text]
    if wrong := [type(text).__name__ for text in texts if not isinstance(text, str)]:
        problems.add(place, f"found {wrong[0]} in a column of text; name it with --numbers")
        return b""
    if not "".join(texts).strip():
        problems.add(place, f"{' and '.join(columns.text)} empty, expected text")
    return "\n".join(_LINE_END.sub(" ", text) for text in texts).encode()


def _number(place: str, column: str, cell: Any, problems: Problems) -> float:
    try:
        if isinstance(cell, str) and "_" in cell:  # a separator to Python
            raise ValueError
        number = float(cell)
    except (TypeError, ValueError):
        found = "nothing" if cell in (None, "") else repr(cell)[:40]
        problems.add(place, f"{column} has {found}, expected a number")
        return 0.0
    if not abs(number) <= float(np.finfo(np.float32).max):  # so also for NaN
        problems.add(place, f"{column} is {number}, expected a finite number of 32 bits")
        return 0.0
    return number


def _refuse_missing(name: str, found: Sequence[str], columns: Columns, problems: Problems) -> None:
    """Report the columns that a table lacks or has twice."""
    wrong = [column for column in dict.fromkeys(columns.names) if found.count(column) != 1]
    for column in wrong:
        count = "twice" if column in found else f"missing.{nearest(column, found)}"
        problems.add(name, f"column {column} is {count} (it has {', '.join(found)})")


def _csv(path: Path, name: str, columns: Columns, problems: Problems) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts of over 131,072 characters
    # Wrong bytes become surrogates, so that each is reported with its line.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if name.endswith(".tsv") else ",", strict=True)
        try:
            head = next(reader, [])
            _refuse_missing(name, head, columns, problems)
            first = reader.line_num + 1
            for cells in reader:
                where, first = f"line {first}", reader.line_num + 1
                if len(cells) == len(head):
                    yield where, dict(zip(head, cells, strict=True))
                elif cells:
                    text = f"has {len(cells)} fields, expected {len(head)} as in the first line"
                    problems.add(f"{name}, {where}", text)
        except csv.Error as error:
            problems.add(f"{name}, line {reader.line_num}", f"is not CSV ({error})")


def is_parquet(name: str) -> bool:
    """Whether a file name is Parquet's."""
    return name.endswith((".parquet", ".pq"))


def _parquet(path: Path, name: str, columns: Columns, problems: Problems) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path}: pyarrow, which reads Parquet, is not installed here; prepare it on a "
            "machine with the whole lock (./workbench data fetch); prepared arrays work here."
        ) from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        there = file.schema_arrow.names
        _refuse_missing(name, there, columns, problems)
        known = [column for column in dict.fromkeys(columns.names) if there.count(column) == 1]
        row = 0
        for batch in file.iter_batches(columns=known):
            for cells in batch.to_pylist():
                row += 1
                yield f"row {row}", cells
    except (pyarrow.ArrowException, OSError) as error:
        problems.add(name, f"is not a Parquet file ({str(error).splitlines()[0]})")
