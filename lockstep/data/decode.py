"""Decoding the files of a data set into arrays, one function for each format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data import archive, problems, raw, table
from lockstep.data.catalog import SPLITS, Entry
from lockstep.data.idx import idx_array, unpacked
from lockstep.data.order import Order
from lockstep.data.split import Examples
from lockstep.ground.errors import DataError

Pair = tuple[NDArray[Any], NDArray[np.int64]]  # inputs (rows, *shape) and labels (rows,)
# The code that decides the arrays, besides the catalog.
NAMES = ("archive", "decode", "idx", "problems", "raw", "split", "table", "../ground/pictures")
FILES = [Path(__file__).parent / f"{name}.py" for name in NAMES]


def decode(entry: Entry, paths: dict[str, Path]) -> dict[str, Pair]:
    """The examples of each split as ``(inputs, labels)``.

    Raises DataError if a file does not hold what the catalog says: another shape, another number
    of rows, none at all, or a label that is not in the list; for an added data set, with
    every problem, each with its file and row.
    """
    if entry.decoder in READERS:
        splits = _split(entry, paths)
    else:
        splits = DECODERS[entry.decoder](entry, paths)
    for name in SPLITS:
        _check(entry, name, *splits[name])
    return splits


def _split(entry: Entry, paths: dict[str, Path]) -> dict[str, Pair]:
    found = problems.Problems()
    examples = READERS[entry.decoder](entry, paths, found)
    for place, label in zip(examples.places, examples.labels, strict=True):
        if label not in entry.labels:
            found.add(place, f"label {label!r} is not in the catalog ({', '.join(entry.labels)})")
    found.refuse(entry.name)
    labels = np.array([entry.labels.index(label) for label in examples.labels], np.int64)
    rows = examples.split(entry.reading["shares"])
    return {name: (examples.inputs[chosen], labels[chosen]) for name, chosen in rows.items()}


def _idx(entry: Entry, paths: dict[str, Path]) -> dict[str, Pair]:
    """Four IDX files (http://yann.lecun.com/exdb/mnist): two of pictures, two of labels."""
    train = (
        idx_array(paths["train-images-idx3-ubyte.gz"]),
        idx_array(paths["train-labels-idx1-ubyte.gz"]).astype(np.int64),
    )
    test = (
        idx_array(paths["t10k-images-idx3-ubyte.gz"]),
        idx_array(paths["t10k-labels-idx1-ubyte.gz"]).astype(np.int64),
    )
    _check_pair(entry, "train", *train)
    held_out = _stratified(train[1], entry.rows["validation"])
    return {
        "train": _rows(train, ~held_out),
        "validation": _rows(train, held_out),
        "test": test,
    }


def _digits(entry: Entry, paths: dict[str, Path]) -> dict[str, Pair]:
    """Rows of 64 pixels of 0 to 16 and the digit, as scikit-learn ships them."""
    path = paths["digits.csv.gz"]
    lines = unpacked(path).decode(errors="replace").splitlines()
    try:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8).reshape(-1, 65)
    except ValueError as error:
        raise DataError(f"{path}: is not a table of 65 numbers from 0 to 255 ({error}).") from error
    everything = (table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64))
    _check_pair(entry, "train", *everything)
    test = _stratified(everything[1], entry.rows["test"])
    rest = _rows(everything, ~test)
    held_out = _stratified(rest[1], entry.rows["validation"])
    return {
        "train": _rows(rest, ~held_out),
        "validation": _rows(rest, held_out),
        "test": _rows(everything, test),
    }


def _table(entry: Entry, paths: dict[str, Path], found: problems.Problems) -> Examples:
    """A CSV or Parquet file with columns of text or of numbers, and one of labels."""
    ((name, path),) = paths.items()
    reading = entry.reading
    text, numbers = (tuple(reading.get(kind, ())) for kind in ("text", "numbers"))
    columns = table.Columns(reading["label"], text, numbers, reading.get("id"))
    return table.read(path, name, columns, found)


def _pictures(entry: Entry, paths: dict[str, Path], found: problems.Problems) -> Examples:
    """An archive of pictures for each class."""
    height, width = entry.reading["size"]
    return archive.read(paths, (height, width), entry.reading["rgb"], found)


def _arrays(entry: Entry, paths: dict[str, Path], found: problems.Problems) -> Examples:
    """One or two pairs of NPY or IDX files."""
    return raw.read(paths, entry.reading["pairs"], found)


# Those that return examples with their places, which the catalog's shares then split ...
READERS: dict[str, Callable[[Entry, dict[str, Path], problems.Problems], Examples]] = {
    "table": _table,
    "pictures": _pictures,
    "arrays": _arrays,
}
# ... and those that return the splits as their makers, or this workbench, drew them.
DECODERS: dict[str, Callable[[Entry, dict[str, Path]], dict[str, Pair]]] = {
    "idx": _idx,
    "digits": _digits,
}


def _rows(pair: Pair, chosen: NDArray[np.bool_]) -> Pair:
    return pair[0][chosen], pair[1][chosen]


def _stratified(labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Return a mask that holds out ``count`` rows, stratified by class, always the same ones."""
    shuffled = Order(len(labels), seed=0, epoch=0).at(0, len(labels))
    # Sorted by class, in shuffled order within a class, then every k-th row: each class gives its
    # share to within one row.
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    chosen = by_class[np.arange(count) * len(labels) // max(count, 1)]
    mask = np.zeros(len(labels), bool)
    mask[chosen] = True
    return mask


def _check(entry: Entry, split: str, inputs: NDArray[Any], labels: NDArray[np.int64]) -> None:
    _check_pair(entry, split, inputs, labels)
    found, expected = inputs.shape, (entry.rows[split], *entry.shape)
    if found != expected:
        raise DataError(
            f"data {entry.name}: {split} has inputs of shape {found}, the catalog says {expected}; "
            "correct the catalog or add the right files."
        )
    if outside := sorted({int(label) for label in labels} - set(range(len(entry.labels)))):
        row = int(np.flatnonzero(labels == outside[0])[0])
        raise DataError(
            f"data {entry.name}: row {row} of {split} has label {outside[0]}, expected 0 to "
            f"{len(entry.labels) - 1}; correct the file or the labels in the catalog."
        )


def _check_pair(entry: Entry, split: str, inputs: NDArray[Any], labels: NDArray[Any]) -> None:
    if len(inputs) == 0:
        raise DataError(f"data {entry.name}: the {split} split is empty; add examples to it.")
    if labels.shape != inputs.shape[:1]:
        raise DataError(
            f"data {entry.name}: {split} has labels of shape {labels.shape} for inputs of shape "
            f"{inputs.shape}, expected one for each input; add the right files."
        )
