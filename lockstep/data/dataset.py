"""A prepared data set, as training sees it: splits of arrays on disk."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.order import Order
from lockstep.program import Kind


@dataclass(frozen=True)
class Split:
    """Examples of one split, on disk.

    ``inputs`` (rows, *shape) and ``target`` (rows, ...), what each should be answered with, of the
    data set's kind: classes are (rows,) int64.
    """

    inputs: NDArray[Any]
    target: NDArray[Any]

    def __len__(self) -> int:
        return len(self.inputs)

    def first(self, rows: int) -> "Split":
        """The same split cut to so many rows, of each class alike; 0 means all.

        They are the first in a shuffled order, always the same one, and stay in that of the split.
        Of classes with fewer rows than the others all are taken.
        """
        if not 0 < rows < len(self):
            return self
        shuffled = Order(len(self), seed=0, epoch=0).at(0, len(self))
        if self.target.ndim == 1 and self.target.dtype.kind in "iu":  # classes
            classes = self.target[shuffled]
            by_class = np.argsort(classes, kind="stable")
            _, first, place = np.unique(classes[by_class], return_index=True, return_inverse=True)
            turn = np.arange(len(self)) - first[place]  # 0 for the first of each class, ...
            shuffled = shuffled[by_class[np.argsort(turn, kind="stable")]]
        chosen = np.sort(shuffled[:rows])
        return Split(self.inputs[chosen], self.target[chosen])


@dataclass(frozen=True)
class Dataset:
    """A prepared data set; ``digest`` stands for every byte of its arrays.

    ``version`` is its permanent name in the catalog: ``digits@`` and the version's digest.
    ``kind`` says what a target is, and ``labels`` has the names of what a model answers with;
    ``columns`` has those of the numbers in an input, where it is a row of a table.
    """

    name: str
    labels: tuple[str, ...]
    digest: str
    splits: dict[str, Split]
    version: str
    kind: Kind = "class"
    columns: tuple[str, ...] = ()
