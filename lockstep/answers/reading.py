"""Reading what a model takes: one input as a raw example, and the inputs in a file or in JSON."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.answers.inputs import Numbers, Picture, Takes, Tensor, Text
from lockstep.ground import pictures
from lockstep.ground.errors import DataError

NPY = b"\x93NUMPY"  # how a file in NumPy's format begins
_LONGEST = 1 << 18  # characters of a table's row
_LARGEST = float(np.finfo(np.float32).max)


def example(takes: Takes, source: Any) -> NDArray[Any]:
    """Return one input as the raw example that ``takes`` describes.

    Raises DataError, in one line, for anything else.
    """
    match takes:
        case Picture():
            size = takes.height, takes.width
            return (pictures.colour if takes.colour else pictures.grey)(source, size)
        case Text():
            return _text(source, takes.longest)
        case Numbers():
            return _numbers(source, takes.names)
        case Tensor():
            return _tensor(source, takes)


def expected(takes: Takes) -> str:
    """Return what one input is, in words."""
    match takes:
        case Picture():
            return "a picture"
        case Text():
            return "a text"
        case Numbers(names) if names:
            return f"{len(names)} numbers ({', '.join(names)})"
        case Numbers():
            return "a list of numbers"
        case Tensor():
            return f"a tensor of shape {takes.shape}"


def inputs_of_json(takes: Takes, content: Any) -> list[Any]:
    """Return the inputs in parsed JSON: one, or a list of them.

    Raises DataError for other JSON. A picture is never a text, which would be a path here.
    """
    match takes:
        case Picture():
            inputs = _pictures(content, takes.colour)
        case Text():
            inputs = [content] if isinstance(content, str) else content
            inputs = inputs if _all_of(str, inputs) else None
        case Numbers():
            one = isinstance(content, dict) or (_all_of((int, float), content) and content)
            inputs = [content] if one else content
            inputs = inputs if _all_of((list, dict), inputs) else None
        case Tensor():
            depth = len(takes.shape)
            inputs = [content] if content and _depth(content) == depth else content
            numbers = isinstance(inputs, list) and all(_has_numbers(one, depth) for one in inputs)
            inputs = inputs if numbers else None
    if inputs is None:
        raise DataError(f"body: found other JSON, expected {_SEVERAL[type(takes)]}.")
    return list(inputs)


_SEVERAL: dict[type, str] = {
    Picture: "a picture or a list of pictures, each an array of shape (height, width), "
    "(1, height, width) or (height, width, 3)",
    Text: "a text or a list of texts",
    Numbers: "a list of numbers, an object with a number for each name, or a list of these",
    Tensor: "nested lists of numbers, or a list of these",
}


def inputs_of_bytes(takes: Takes, content: bytes) -> Iterable[Any]:
    """Return the inputs in a file of numbers: NumPy's format, JSON or CSV."""
    if content.startswith(NPY):
        return inputs_of_npy(takes, content)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"body: found neither text nor NumPy's format, expected {expected(takes)}."
        ) from error
    if text.lstrip()[:1] in ("[", "{") or isinstance(takes, Tensor):
        return inputs_of_json(takes, parsed(text))
    return table(takes, text)


def inputs_of_npy(takes: Takes, content: bytes) -> Iterable[NDArray[Any]]:
    """Return the inputs in an array of NumPy's format: one, or one in each of its rows."""
    array = _array(content)
    inner = len(takes.shape) if isinstance(takes, Tensor) else 1
    if not inner <= array.ndim <= inner + 1:
        raise DataError(f"array: found shape {array.shape}, expected {expected(takes)} or several.")
    return [array] if array.ndim == inner else array


def inputs_of_word(takes: Takes, word: str) -> list[tuple[str, Any]]:
    """Return the inputs that a word of the command line stands for, each with its name.

    For numbers and tensors that is a file (CSV, NumPy's format or JSON) or the numbers themselves,
    as JSON or with commas; else the word itself. Raises DataError for a file that has none.
    """
    if isinstance(takes, Picture | Text):
        return [(word, word)]
    path = Path(word)
    named = word.lower().endswith((".csv", ".npy", ".json"))
    try:
        content = path.read_bytes() if named else word.encode(errors="replace")
        inputs = list(inputs_of_bytes(takes, content.removeprefix(b"\xef\xbb\xbf")))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected a file of numbers.") from error
    except DataError as error:
        raise DataError(f"{word[:60]}: {error}") from error
    if len(inputs) == 1:
        return [(word, inputs[0])]
    return [(f"{path.name}, row {number}", one) for number, one in enumerate(inputs, 1)]


def table(takes: Takes, text: str) -> Iterator[Any]:
    """Yield the inputs in the rows of a CSV file's text, each when it is asked for.

    The first row may hold the names of the columns, in any order, others among them; without
    them, the numbers of each row are in the order of the names. Raises DataError for a model that
    takes no numbers, or without a column that it needs.
    """
    if not isinstance(takes, Numbers):
        raise DataError(f"text/csv: found a table, expected {takes.described()['kind']}s.")
    try:
        rows = table_rows(text)
        head = next(rows, [])
        names = [name.strip() for name in head]
        if _is_head(names, takes.names):
            needed = takes.names or tuple(names)
            if missing := [name for name in needed if name not in names]:
                has = f"it has {', '.join(names):.200}" if names else "it is empty"
                raise DataError(
                    f"column {missing[0]} not found, expected {', '.join(needed)} ({has})."
                )
            places = [names.index(name) for name in needed]
        else:
            places = []
            yield _cells(head, 1, takes.names)
        for number, row in enumerate(rows, 1 if places else 2):
            if places and len(row) != len(names):
                raise DataError(
                    f"row {number}: found {len(row)} cells, expected {len(names)} as in the head."
                )
            yield _cells([row[place] for place in places] if places else row, number, takes.names)
    except csv.Error as error:
        raise DataError(f"found no readable CSV ({error}).") from error


def table_rows(text: str) -> Iterator[list[str]]:
    """Yield the rows of a table that are not blank, its head too.

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


def parsed(text: str | bytes) -> Any:
    """Return what JSON holds. Raises DataError for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"body: not readable as JSON ({error}).") from error


def decoded(content: bytes) -> str:
    """Return bytes of UTF-8 as text. Raises DataError for others."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"text: not readable as UTF-8 ({error.reason}).") from error


def _text(source: Any, longest: int) -> NDArray[np.uint8]:
    if not isinstance(source, str) or not source.strip():
        raise DataError(f"text: found {source!r:.60}, expected words.")
    content = source.replace("\0", " ").encode(errors="replace")[:longest]
    return np.frombuffer(content.ljust(longest, b"\0"), np.uint8)


def _numbers(source: Any, names: tuple[str, ...]) -> NDArray[np.float32]:
    if isinstance(source, Mapping):
        if not names:
            raise DataError("numbers: found names, expected a list of numbers.")
        if missing := [name for name in names if name not in source]:
            raise DataError(
                f"numbers: {missing[0]} not found, expected {', '.join(names)} (found "
                f"{', '.join(map(str, source)) or 'none':.200})."
            )
        values = [source[name] for name in names]
    else:
        values = source.tolist() if hasattr(source, "tolist") else source
    if not isinstance(values, list | tuple):
        raise DataError(f"numbers: found {source!r:.60}, expected {expected(Numbers(names))}.")
    if names and len(values) != len(names):
        raise DataError(f"numbers: found {len(values)}, expected {expected(Numbers(names))}.")
    for number, value in enumerate(values):
        if not _is_number(value) or not abs(value) <= _LARGEST:  # so also for NaN
            name = names[number] if names else f"number {number + 1}"
            raise DataError(f"{name}: found {value!r:.40}, expected a finite number of 32 bits.")
    return np.array(values, np.float32)


def _tensor(source: Any, takes: Tensor) -> NDArray[Any]:
    if isinstance(source, str | Path):
        try:
            source = Path(source).read_bytes()
        except (OSError, ValueError) as error:
            raise DataError(f"tensor: {source!s:.60}: no readable file ({error}).") from error
    try:
        array = _array(source) if isinstance(source, bytes) else np.asarray(source)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"tensor: found no array of numbers ({error}).") from error
    if array.shape != tuple(takes.shape):
        raise DataError(f"tensor: found shape {array.shape}, expected {tuple(takes.shape)}.")
    if array.dtype.kind not in "buif":
        raise DataError(f"tensor: found values of type {array.dtype}, expected {takes.dtype}.")
    with np.errstate(all="ignore"):
        converted = array.astype(takes.dtype)
        whole = converted.dtype.kind in "bui"
        same = converted == array if whole else np.isfinite(converted)
    if not np.all(same):
        raise DataError(f"tensor: found values that are not finite numbers of type {takes.dtype}.")
    return converted


def _array(content: bytes) -> NDArray[Any]:
    """Read NumPy's format; no more memory is taken than there are bytes."""
    file, form = io.BytesIO(content), np.lib.format
    try:
        version = form.read_magic(file)
        read = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
        shape, by_columns, dtype = read(file)
        if dtype.kind not in "buif":
            raise ValueError(f"type {dtype}")
        array = np.frombuffer(content, dtype, offset=file.tell())
        return array.reshape(shape, order="F" if by_columns else "C")
    except Exception as error:  # what NumPy raises for a broken head is of any kind
        reason = " ".join(str(error).split())
        raise DataError(f"array: not readable as NumPy's format ({reason:.80}).") from error


def _is_head(cells: list[str], names: tuple[str, ...]) -> bool:
    """Whether the first row of a table holds names: one that is known, or one that is no number."""
    return any(cell in names for cell in cells) or not any(_parsed_number(cell) for cell in cells)


def _parsed_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cells(cells: list[str], row: int, names: tuple[str, ...]) -> list[float]:
    values = []
    for number, cell in enumerate(cells):
        try:
            if "_" in cell:  # a separator to Python
                raise ValueError
            values.append(float(cell))
        except ValueError as error:
            name = names[number] if number < len(names) else f"number {number + 1}"
            raise DataError(f"row {row}, {name}: found {cell!r:.40}, expected a number.") from error
    return values


def _pictures(content: Any, colour: bool) -> list[Any] | None:
    """The pictures in JSON, if it holds any."""
    if not isinstance(content, list) or not all(isinstance(item, list) for item in content):
        return None
    one = bool(content) and all(_is_number(value) for item in content for value in item)
    if colour and _depth(content) == 3:  # or greys of three columns, which nobody has
        one = all(_all_of((int, float), p) and len(p) == 3 for row in content for p in row)
    several = [content] if one and all(content) else content
    return several if all(_has_numbers(item, 3) for item in several) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _has_numbers(value: Any, depth: int) -> bool:
    """Whether all in nested lists are numbers; NumPy would copy a long text to each place."""
    if isinstance(value, list):
        return depth > 0 and all(_has_numbers(item, depth - 1) for item in value)
    return _is_number(value)


def _all_of(kind: Any, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _depth(value: Any) -> int:
    """How deep the first of nested lists is nested."""
    depth = 0
    while isinstance(value, list):
        depth, value = depth + 1, value[0] if value else None
    return depth
