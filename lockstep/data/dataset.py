"""A prepared data set, as training sees it: splits of arrays on disk."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

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
        """The same split cut to its first rows; 0 means all."""
        return Split(self.inputs[:rows], self.target[:rows]) if rows else self


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
