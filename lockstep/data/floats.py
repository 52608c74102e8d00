"""Numbers as 32-bit floats: only those that these can tell apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.problems import Problems

# Values of a column may become equal where they differ by less than this part of its range: no
# model learns from that, and it happens to any two of a few thousand random numbers.
_NOTHING = 2.0**-20


def as_float32(
    values: NDArray[Any], columns: Sequence[str], places: Sequence[str], name: str, wrong: Problems
) -> NDArray[np.float32]:
    """Return numbers (rows, columns) as float32; report columns whose values become equal.

    Times in seconds and long ids are such: 1700000001 and 1700000002 are one 32-bit float. Numbers
    that are too large or too small for it must have been reported already. ``places`` are those of
    the rows, ``name`` the file's.
    """
    narrow: NDArray[np.float32] = values.astype(np.float32)
    for number, column in enumerate(columns):
        if pair := _merged(values[:, number], narrow[:, number]):
            a, b = (f"{_shown(values[row, number])} ({_row(places[row])})" for row in pair)
            wrong.add(
                name,
                f"column {column} has {a} and {b}, which are the same 32-bit float; subtract an "
                "offset, or leave the column out if it is an id",
            )
    return narrow


def holds(number: float) -> bool:
    """Whether a number is finite and neither overflows a 32-bit float nor vanishes in it."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = np.float32(number)
    return bool(np.isfinite(narrow)) and (number == 0 or narrow != 0)


def _merged(values: NDArray[Any], narrow: NDArray[np.float32]) -> tuple[int, int] | None:
    """Return two rows whose values differ, by more than is nothing, and become equal."""
    if not len(values):
        return None
    range_ = float(values.max() - values.min())
    if float(np.spacing(np.abs(narrow).max())) <= range_ * _NOTHING:
        return None
    order = np.argsort(values, kind="stable")
    ordered, cut = values[order], narrow[order]
    equal = (cut[1:] == cut[:-1]) & (ordered[1:] - ordered[:-1] > range_ * _NOTHING)
    if not equal.any():
        return None
    first = int(np.flatnonzero(equal)[0])
    return int(order[first]), int(order[first + 1])


def _shown(value: Any) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _row(place: str) -> str:
    return place.rpartition(", ")[2]
