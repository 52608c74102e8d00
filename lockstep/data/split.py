"""Splits into training, validation and test by a hash, by groups or by time, never by chance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Blocks = list[list[int]]  # rows that stay together, in the order in which splits take them


@dataclass(frozen=True)
class Fold:
    """Which part of the examples validates, from 1 on; the others train, and test stays."""

    number: int
    folds: int

    def __str__(self) -> str:
        return f"{self.number} of {self.folds}"


@dataclass(frozen=True)
class Examples:
    """Examples before they are split: ``inputs`` (rows, *shape), and of each row some facts.

    Its label; the sha256 of its id, or of what it contains where it has none; that of what it
    contains; its place as "dataset.csv, line 7"; and, where its makers say so, that it is for test
    or for validation.

    Where the target is no class, ``target`` (rows, ...) has it as the file says it, and the label
    is its text for people; of several labels, which have no ``target``, they are on lines of it.

    Rows with one value in ``groups``, or in ``times``, stay in one split; of times the latest are
    for test. Empty lists are none.
    """

    inputs: NDArray[Any]
    labels: list[str]
    keys: list[bytes]
    contents: list[bytes]
    places: list[str]
    for_test: set[int] = field(default_factory=set)
    target: NDArray[Any] | None = None
    for_validation: set[int] = field(default_factory=set)
    groups: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def split(
        self, shares: dict[str, float], *, by_class: bool = True, fold: Fold | None = None
    ) -> dict[str, Rows]:
        """Return the rows of each split. Those that the makers drew are used as they are.

        With a fold, that part of the rows that are not for test is the validation split.
        """
        drawn = {"test": self.for_test, "validation": set() if fold else self.for_validation}
        shares = {split: share for split, share in shares.items() if not drawn[split]}
        if fold:
            shares.pop("validation", None)
        out = set[int]().union(*drawn.values())
        rest = [row for row in range(len(self.labels)) if row not in out]
        found = divided(self._strata(rest, by_class), shares)
        if fold:
            found |= held_out(self._strata(found["train"].tolist(), by_class, alike=True), fold)
        for split, rows in drawn.items():
            if rows:
                found[split] = np.array(sorted(rows), np.int64)
        return found

    def _strata(
        self, rows: Iterable[int], by_class: bool, *, alike: bool = False
    ) -> Iterable[Blocks]:
        """Blocks of rows, for each class where single rows are drawn.

        With ``alike``, rows of one class and content are one block.
        """
        rows = list(rows)
        if self.times:
            return [_blocks(rows, [-self.times[row] for row in rows])]
        if self.groups:
            return [_blocks(rows, [self.groups[row] for row in rows])]
        classes: dict[str, list[int]] = {}
        for row in rows:
            classes.setdefault(self.labels[row] if by_class else "", []).append(row)
        ordered = (sorted(one, key=lambda row: (self.keys[row], row)) for one in classes.values())
        if not alike:
            return ([[row] for row in one] for one in ordered)
        return (_alike(one, self.contents) for one in ordered)


def divided(strata: Iterable[Blocks], shares: dict[str, float]) -> dict[str, Rows]:
    """Return the rows of each split in order; ``shares`` has those of validation and test.

    Within each stratum the first blocks are for test, the next for validation, the rest for
    training: a block is where its first row is. A share is rounded and at least one row. So a row
    keeps its split wherever it stands in the file, and rows that are added move few others, those
    at the borders of the shares.
    """
    found: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for blocks in strata:
        count, before = sum(map(len, blocks)), 0
        test, validation = (
            max(1, int(count * shares[split] + 0.5)) if split in shares else 0
            for split in ("test", "validation")
        )
        for block in blocks:
            split = "test" if before < test else "train"
            if test <= before < test + validation:
                split = "validation"
            found[split] += block
            before += len(block)
    return _in_order(found)


def held_out(strata: Iterable[Blocks], fold: Fold) -> dict[str, Rows]:
    """Return the rows that validate and those that train: of each stratum an equal part each."""
    found: dict[str, list[int]] = {"train": [], "validation": []}
    for blocks in strata:
        count, before = sum(map(len, blocks)), 0
        for block in blocks:
            part = before * fold.folds // count
            found["validation" if part == fold.number - 1 else "train"] += block
            before += len(block)
    return _in_order(found)


def _blocks(rows: Sequence[int], values: Sequence[Any]) -> Blocks:
    """Rows by value, in the order of the values."""
    blocks: dict[Any, list[int]] = {}
    for row, value in zip(rows, values, strict=True):
        blocks.setdefault(value, []).append(row)
    return [blocks[value] for value in sorted(blocks)]


def _alike(rows: Iterable[int], contents: Sequence[bytes]) -> Blocks:
    """Rows by content, each content where its first row is."""
    blocks: dict[bytes, list[int]] = {}
    for row in rows:
        blocks.setdefault(contents[row], []).append(row)
    return list(blocks.values())


def _in_order(found: dict[str, list[int]]) -> dict[str, Rows]:
    return {split: np.array(sorted(rows), np.int64) for split, rows in found.items()}
