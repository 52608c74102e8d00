"""Splits into training, validation and test by a hash, never by chance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Examples before they are split: ``inputs`` (rows, *shape), and of each row some facts.

    Its label; the sha256 of its id, or of what it contains where it has none; that of what it
    contains; its place as "dataset.csv, line 7"; and, where its makers say so, that it is for test
    or for validation.

    Where the target is no class, ``target`` (rows, ...) has it as the file says it, and the label
    is its text for people; of several labels, which have no ``target``, they are on lines of it.
    """

    inputs: NDArray[Any]
    labels: list[str]
    keys: list[bytes]
    contents: list[bytes]
    places: list[str]
    for_test: set[int] = field(default_factory=set)
    target: NDArray[Any] | None = None
    for_validation: set[int] = field(default_factory=set)

    def split(self, shares: dict[str, float], *, by_class: bool = True) -> dict[str, Rows]:
        """Return the rows of each split. Those that the makers drew are used as they are."""
        classes = self.labels if by_class else [""] * len(self.labels)
        drawn = {"test": self.for_test, "validation": self.for_validation}
        rest = [
            row for row in range(len(classes)) if not any(row in rows for rows in drawn.values())
        ]
        found = by_hash(
            [self.keys[row] for row in rest],
            [classes[row] for row in rest],
            {split: share for split, share in shares.items() if not drawn[split]},
        )
        place = np.array(rest, np.int64)
        return {
            split: np.array(sorted(drawn[split]), np.int64) if drawn.get(split) else place[rows]
            for split, rows in found.items()
        }


def by_hash(
    keys: Sequence[bytes], labels: Sequence[str], shares: dict[str, float]
) -> dict[str, Rows]:
    """Return the rows of each split in order; ``shares`` has those of validation and test.

    Within each class the rows stand in the order of their keys, digests; the first share is for
    test, the next for validation, the rest for training. A share is rounded and at least one
    row. So a row keeps its split wherever it stands in the file, and rows that are added move few
    others, those at the borders of the shares.
    """
    classes: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        classes.setdefault(label, []).append(row)
    found: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for rows in classes.values():
        rows.sort(key=lambda row: (keys[row], row))
        test, validation = (
            max(1, int(len(rows) * shares[split] + 0.5)) if split in shares else 0
            for split in ("test", "validation")
        )
        found["test"] += rows[:test]
        found["validation"] += rows[test : test + validation]
        found["train"] += rows[test + validation :]
    return {split: np.array(sorted(rows), np.int64) for split, rows in found.items()}
