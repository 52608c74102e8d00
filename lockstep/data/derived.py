"""Data sets of the examples that are made from files which locked packages contain."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.idx import unpacked
from lockstep.data.order import Order
from lockstep.ground.errors import DataError

Pair = tuple[NDArray[Any], NDArray[Any]]  # inputs (rows, *shape) and targets (rows, ...)


def numbers(path: Path, *, columns: int) -> NDArray[np.float32]:
    """Return a packed file of lines of so many numbers as float32 (rows, columns)."""
    lines = unpacked(path).decode(errors="replace").splitlines()
    try:
        return np.loadtxt(lines, dtype=np.float32, ndmin=2).reshape(-1, columns)
    except ValueError as error:
        raise DataError(f"{path}: is not a table of {columns} numbers ({error}).") from error


def held_out(pair: Pair, rows: dict[str, int]) -> dict[str, Pair]:
    """Return test and validation split of so many rows, always the same ones, and the rest."""
    inputs, targets = pair
    shuffled = Order(len(inputs), seed=0, epoch=0).at(0, len(inputs))
    edges = np.cumsum([rows["test"], rows["validation"]])
    parts = zip(("test", "validation", "train"), np.split(shuffled, edges), strict=True)
    chosen = {name: np.sort(part) for name, part in parts}
    return {name: (inputs[chosen[name]], targets[chosen[name]]) for name in rows}


def scenes(digits: NDArray[np.uint8], classes: NDArray[np.int64], *, rows: int) -> Pair:
    """Return pictures (rows, 16, 16) of 0 to 16 with one to four digits, and which digits they are.

    Each quarter of a picture is empty or has one of ``digits``, (n, 8, 8); the target is (rows, 10)
    of 0 and 1, uint8.
    """
    chance = _bytes("scenes", rows * 4).reshape(rows, 4)
    filled = chance < 128
    filled[np.arange(rows), chance[:, 0] % 4] = True
    shuffled = Order(len(digits), seed=0, epoch=0).at(0, len(digits))
    chosen = np.resize(shuffled, (rows, 4))
    quarters = np.where(filled[..., None, None], digits[chosen], np.uint8(0))
    pictures = quarters.reshape(rows, 2, 2, 8, 8).transpose(0, 1, 3, 2, 4).reshape(rows, 16, 16)
    target = np.zeros((rows, 10), np.uint8)
    row, quarter = np.nonzero(filled)
    target[row, classes[chosen[row, quarter]]] = 1
    return np.ascontiguousarray(pictures), target


def outlines(digits: NDArray[np.uint8]) -> Pair:
    """Return digits (n, 8, 8) of 0 to 16 as noisy pictures (n, 16, 16) of 0 to 255, with masks.

    Of each pixel the mask says whether it is outside of the strokes, on their edge, or inside.
    """
    large = digits.astype(np.uint16).repeat(2, 1).repeat(2, 2)
    stroke = np.pad(large >= 8, ((0, 0), (1, 1), (1, 1)))
    middle = stroke[:, 1:-1, 1:-1]
    beside = stroke[:, :-2, 1:-1] & stroke[:, 2:, 1:-1] & stroke[:, 1:-1, :-2] & stroke[:, 1:-1, 2:]
    mask = middle.astype(np.uint8) + (middle & beside)
    noise = _bytes("outlines", large.size).reshape(large.shape)
    return (large * 8 + noise // 2).astype(np.uint8), mask


def _bytes(name: str, count: int) -> NDArray[np.uint8]:
    """Return bytes that look random, the same in all versions of all libraries."""
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(count), np.uint8).copy()
