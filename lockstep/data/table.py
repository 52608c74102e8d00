"""Tables with a target: CSV and Parquet, of text or of numbers."""

import csv
import datetime
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data import floats
from lockstep.data.problems import Problems, strange
from lockstep.data.split import Examples
from lockstep.ground.errors import DataError, nearest
from lockstep.program import Kind

_LINE_END = re.compile(r"\r\n|\r|\n")
Row = tuple[str, dict[str, Any]]  # its place, as "line 7", and its cells by column


@dataclass(frozen=True)
class Columns:
    """The columns that count: either ``text`` or ``numbers``, the target's, and perhaps an id.

    Rows with one value in the column ``group``, or in ``time``, stay in one split. Several labels
    are either columns of 0 and 1, or one column of labels with a ``separator``.
    """

    kind: Kind
    target: tuple[str, ...]
    text: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    id: str | None = None
    separator: str = ""
    group: str | None = None
    time: str | None = None

    @property
    def names(self) -> list[str]:
        """All of them."""
        more = (one for one in (self.id, self.group, self.time) if one)
        return [*self.text, *self.numbers, *self.target, *more]


def read(path: Path, name: str, columns: Columns, problems: Problems) -> Examples:
    """Return the valid rows of a table; the errors of the others go to ``problems``.

    Text becomes bytes of UTF-8, padded with zeros to the longest row: uint8 (rows, width). The
    columns are joined by line ends, and line ends within one become spaces, so the first line is
    the first column. Numbers become float32 (rows, columns). The key is of the id or, where no
    column is named for it, of the row's input. ``name`` is the file's, wherever its bytes lie.
    """
    if fault := strange(path, name):
        problems.add(name, fault)
        rows: Iterator[Row] = iter(())
    else:
        rows = (_parquet if is_parquet(name) else _csv)(path, name, columns, problems)
    inputs, ids, labels, places = list[bytes](), list[str](), list[str](), list[str]()
    targets: list[list[float]] = []
    groups, times = list[str](), list[float | datetime.datetime]()
    for where, cells in rows:
        place, wrong = f"{name}, {where}", Problems()
        present = [column for column in columns.names if column in cells]
        for column in present:
            _check(place, column, cells[column], wrong)
        if wrong:
            problems.take(wrong)
            continue
        answer = _answer(place, columns, cells, wrong)
        key, group = (
            _text(place, column, cells[column], wrong) if column and column in cells else ""
            for column in (columns.id, columns.group)
        )
        time = _time(place, columns.time, cells, wrong) if columns.time in cells else 0.0
        content = _content(place, columns, cells, wrong)
        problems.take(wrong)
        if wrong or len(present) < len(columns.names):
            continue
        inputs.append(content)
        ids.append(key)
        places.append(place)
        groups.append(group)
        times.append(time)
        targets.append(answer if columns.kind == "numbers" else [])
        labels.append(_shown(answer))
    array, narrow = _array(inputs, columns), None
    if columns.numbers:
        array = floats.as_float32(array, columns.numbers, places, name, problems)
    if columns.kind == "numbers":
        target = np.array(targets, np.float64).reshape(-1, len(columns.target))
        narrow = floats.as_float32(target, columns.target, places, name, problems)
    if columns.id:
        keys = [one.encode() for one in ids]
    else:  # of the numbers as training gets them, so that a row keeps its split
        keys = [row.tobytes() for row in array] if columns.numbers else inputs
    keys, contents = ([sha256(one).digest() for one in many] for many in (keys, inputs))
    return Examples(
        array,
        labels,
        keys,
        contents,
        places,
        target=narrow,
        groups=[sha256(one.encode()).digest() for one in groups] if columns.group else [],
        times=_in_seconds(times, columns.time, places, problems) if columns.time else [],
    )


def _array(inputs: Sequence[bytes], columns: Columns) -> NDArray[Any]:
    if columns.numbers:
        return np.frombuffer(b"".join(inputs), np.float64).reshape(-1, len(columns.numbers))
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


def _answer(place: str, columns: Columns, cells: dict[str, Any], problems: Problems) -> Any:
    """The target of a row: numbers, or labels, one or several."""
    present = [column for column in columns.target if column in cells]
    if columns.kind == "numbers":
        return [_number(place, column, cells[column], problems) for column in present]
    if columns.kind == "class" or columns.separator:
        texts = [_text(place, column, cells[column], problems, columns) for column in present]
        if columns.kind == "class":
            return texts[0] if texts else ""
        parts = (part.strip() for text in texts for part in text.split(columns.separator))
        return sorted({part for part in parts if part})
    return [column for column in present if _flag(place, column, cells[column], problems)]


def _shown(answer: Any) -> str:
    """The text that stands for a target: a label, several of them, or numbers."""
    if isinstance(answer, str):
        return answer
    return "\n".join(one if isinstance(one, str) else f"{one:g}" for one in answer)


def _text(
    place: str, column: str, cell: Any, problems: Problems, columns: Columns | None = None
) -> str:
    """The text of a cell that is a label, an id, or several labels, of which there may be none."""
    several = columns is not None and columns.kind == "labels"
    if several and isinstance(cell, list | tuple) and all(isinstance(one, str) for one in cell):
        assert columns
        return columns.separator.join(cell)
    if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):
        if not several:
            problems.add(place, f"{column} is empty, expected a value")
        return ""
    if not isinstance(cell, str | int | float):
        found = type(cell).__name__
        advice = "; save the column as text" if found == "bytes" else ""
        problems.add(place, f"{column} has {found}, expected text or a whole number{advice}")
        return ""
    return str(cell)


def _flag(place: str, column: str, cell: Any, problems: Problems) -> bool:
    known = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
    found = known.get(str(cell).strip().lower())
    if found is None:
        shown = "nothing" if cell in (None, "") else repr(cell)[:40]
        problems.add(place, f"{column} has {shown}, expected 0 or 1: whether it has that label")
    return bool(found)


def _content(place: str, columns: Columns, cells: dict[str, Any], problems: Problems) -> bytes:
    """Return the input of a row as bytes: numbers of 64 bits, or a text."""
    if columns.numbers:
        numbers = [_number(place, c, cells[c], problems) for c in columns.numbers if c in cells]
        return np.array(numbers, np.float64).tobytes()
    if not all(column in cells for column in columns.text):
        return b""
    texts = ["" if cells[column] is None else cells[column] for column in columns.text]
    if wrong := [type(text).__name__ for text in texts if not isinstance(text, str)]:
        advice = "save it as text in UTF-8" if wrong[0] == "bytes" else "name it with --numbers"
        problems.add(place, f"found {wrong[0]} in a column of text; {advice}")
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
    except OverflowError:  # of a whole number
        number = float("inf")
    if not floats.holds(number):
        problems.add(place, f"{column} is {number}, expected a finite number of 32 bits")
        return 0.0
    if abs(number) >= 2**53 and number.is_integer() and not _exact(cell, number):
        text = f"{column} is {cell}, a whole number of more digits than a float has"
        problems.add(place, f"{text}; leave it out if it is an id, or round it")
        return 0.0
    return number


def _time(
    place: str, column: str | None, cells: dict[str, Any], problems: Problems
) -> float | datetime.datetime:
    """A time: a number of any unit, or a date as ISO 8601 has it, of no zone as of UTC."""
    cell = cells[column or ""]
    if isinstance(cell, datetime.date) and not isinstance(cell, datetime.datetime):
        cell = datetime.datetime(cell.year, cell.month, cell.day)
    if isinstance(cell, str) and not re.fullmatch(r"\s*[-+]?[0-9.]+(e[-+]?[0-9]+)?\s*", cell, re.I):
        try:
            cell = datetime.datetime.fromisoformat(cell.strip())
        except ValueError:
            cell = None if not cell.strip() else cell
    if isinstance(cell, datetime.datetime):
        return cell if cell.tzinfo else cell.replace(tzinfo=datetime.UTC)
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(cell, bool):
        shown = "nothing" if cell in (None, "") else repr(cell)[:40]
        problems.add(place, f"{column} has {shown}, expected a date such as 2026-11-28 or a number")
        return 0.0
    return number


def _in_seconds(
    times: Sequence[float | datetime.datetime], column: str, places: list[str], problems: Problems
) -> list[float]:
    """Times as numbers, dates as seconds since 1970; a mixture of both is reported."""
    for time, place in zip(times, places, strict=True):
        if isinstance(time, datetime.datetime) != isinstance(times[0], datetime.datetime):
            kinds = ("a number", "a date")
            found = kinds[isinstance(time, datetime.datetime)]
            first = kinds[isinstance(times[0], datetime.datetime)]
            problems.add(place, f"{column} has {found}, expected {first} as in the first row")
            return []
    return [one.timestamp() if isinstance(one, datetime.datetime) else one for one in times]


def _exact(cell: Any, number: float) -> bool:
    try:
        return int(cell) == int(number)
    except ValueError:  # not written as a whole number
        return True


def _refuse_missing(name: str, found: Sequence[str], columns: Columns, problems: Problems) -> None:
    """Report the columns that a table lacks or has twice."""
    wrong = [column for column in dict.fromkeys(columns.names) if found.count(column) != 1]
    if wrong and len(found) == 1:
        for mark, word in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
            if mark in found[0]:
                problems.add(
                    name,
                    f"its columns are separated by {word}, expected commas, or tabs in a .tsv file",
                )
                return
    for column in wrong:
        count = "twice" if column in found else f"missing.{nearest(column, found)}"
        problems.add(name, f"column {column} is {count} (it has {', '.join(found)})")


def _csv(path: Path, name: str, columns: Columns, problems: Problems) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts of over 131,072 characters
    tabs = name.lower().endswith(".tsv")
    # Wrong bytes become surrogates, so that each is reported with its line.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if tabs else ",", strict=True)
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
    return name.lower().endswith((".parquet", ".pq"))


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
