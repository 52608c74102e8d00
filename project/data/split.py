"""Which examples are for training, validation and test: decided by a hash, never by chance."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def by_hash(
    keys: Sequence[bytes], labels: Sequence[str], shares: dict[str, float]
) -> dict[str, Rows]:
    """The rows of each split, in their own order; ``shares`` has those of validation and test.

    Within each class the rows stand in the order of the sha256 of their keys; the first share is
    for test, the next for validation, the rest for training. A share is rounded and at least one
    row. So a row keeps its split wherever it stands in the file, and rows that are added move few
    others, those at the borders of the shares.
    """
    classes: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        classes.setdefault(label, []).append(row)
    found: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for rows in classes.values():
        rows.sort(key=lambda row: (hashlib.sha256(keys[row]).digest(), row))
        test, validation = (
            max(1, int(len(rows) * shares[split] + 0.5)) for split in ("test", "validation")
        )
        found["test"] += rows[:test]
        found["validation"] += rows[test : test + validation]
        found["train"] += rows[test + validation :]
    return {split: np.array(sorted(rows), np.int64) for split, rows in found.items()}
