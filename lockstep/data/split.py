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
    contains; its place as "dataset.csv, line 7"; and, where its makers say so, that it is for test.
    """

    inputs: NDArray[Any]
    labels: list[str]
    keys: list[bytes]
    contents: list[bytes]
    places: list[str]
    for_test: set[int] = field(default_factory=set)

    def split(self, shares: dict[str, float]) -> dict[str, Rows]:
        """Return the rows of each split. A test split by the makers is used as it is."""
        if not self.for_test:
            return by_hash(self.keys, self.labels, shares)
        rest = np.array([row for row in range(len(self.labels)) if row not in self.for_test])
        keys, labels = [self.keys[row] for row in rest], [self.labels[row] for row in rest]
        found = by_hash(keys, labels, {"validation": shares["validation"]})
        return {
            "train": rest[found["train"]],
            "validation": rest[found["validation"]],
            "test": np.array(sorted(self.for_test), np.int64),
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
