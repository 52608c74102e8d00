"""A prepared data set, as training sees it: splits of arrays on disk."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """Examples of one split, on disk: ``inputs`` (rows, *shape) and ``labels`` (rows,) int64."""

    inputs: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, rows: int) -> "Split":
        """The same split cut to its first rows; 0 means all."""
        return Split(self.inputs[:rows], self.labels[:rows]) if rows else self


@dataclass(frozen=True)
class Dataset:
    """A prepared data set; ``digest`` stands for every byte of its arrays.

    ``version`` is its permanent name in the catalog: ``digits@`` and the version's digest.
    """

    name: str
    labels: tuple[str, ...]
    digest: str
    splits: dict[str, Split]
    version: str
