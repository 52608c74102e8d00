"""Decoding the files of a data set into arrays, one function for each format."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data import archive, derived, problems, raw, table, target, windows
from lockstep.data.catalog import SPLITS, Entry
from lockstep.data.idx import idx_array, unpacked
from lockstep.data.order import Order
from lockstep.data.split import Examples, Fold, held_out
from lockstep.ground.errors import DataError

Pair = tuple[NDArray[Any], NDArray[Any]]  # inputs (rows, *shape) and targets (rows, ...)
# The code that decides the arrays, besides the catalog.
NAMES = (
    "archive",
    "decode",
    "derived",
    "floats",
    "idx",
    "order",
    "problems",
    "raw",
    "split",
    "table",
    "target",
    "windows",
    "../ground/pictures",
)
FILES = [Path(__file__).parent / f"{name}.py" for name in NAMES]


def decode(entry: Entry, paths: dict[str, Path], fold: Fold | None = None) -> dict[str, Pair]:
    """The examples of each split as ``(inputs, targets)``; with a fold, that one validates.

    Raises DataError if a file does not hold what the catalog says: another shape, another number
    of rows, none at all, or a label that is not in the list; for an added data set, with
    every problem, each with its file and row.
    """
    if entry.decoder in READERS:
        splits = _split(entry, paths, fold)
    else:
        splits = DECODERS[entry.decoder](entry, paths)
        splits = _folded(entry, splits, fold) if fold else splits
    rows = entry.rows
    if fold:
        sizes = {name: len(splits[name][0]) for name in SPLITS}
        if not sizes["validation"] or not sizes["train"]:
            part = "training" if sizes["validation"] else "validation"
            raise DataError(
                f"data.folds: fold {fold} has no example for {part}; choose " "fewer folds."
            )
        rows = sizes if sum(sizes.values()) == sum(rows.values()) else rows
    for name in SPLITS:
        _check(entry, name, rows[name], *splits[name])
    return splits


def _split(entry: Entry, paths: dict[str, Path], fold: Fold | None) -> dict[str, Pair]:
    found = problems.Problems()
    examples = READERS[entry.decoder](entry, paths, found)
    targets = target.array_of(entry, examples, found)
    found.refuse(entry.name)
    if fold and examples.times:
        raise DataError(
            f"data.folds: found fold {fold}, but {entry.reference} is split by time "
            f"({entry.reading['time']}): later rows would be learned from; omit data.folds."
        )
    rows = examples.split(entry.reading["shares"], by_class=entry.kind == "class", fold=fold)
    return {name: (examples.inputs[chosen], targets[chosen]) for name, chosen in rows.items()}


def _folded(entry: Entry, splits: dict[str, Pair], fold: Fold) -> dict[str, Pair]:
    """Splits of which others have drawn the test: the rest in folds, each class in equal parts."""
    train, validation = splits["train"], splits["validation"]
    rest = [np.concatenate([train[part], validation[part]]) for part in (0, 1)]
    shuffled = Order(len(rest[0]), seed=0, epoch=0).at(0, len(rest[0])).tolist()
    classes: dict[Any, list[list[int]]] = {}
    for row in shuffled:
        of = int(rest[1][row]) if entry.kind == "class" else 0
        classes.setdefault(of, []).append([row])
    found = held_out(classes.values(), fold)
    chosen = {name: (rest[0][rows], rest[1][rows]) for name, rows in found.items()}
    return splits | chosen


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


def _diabetes(entry: Entry, paths: dict[str, Path]) -> dict[str, Pair]:
    """Ten measurements of a patient, and a number to foretell, as scikit-learn ships them."""
    inputs = derived.numbers(paths["diabetes_data_raw.csv.gz"], columns=10)
    target = derived.numbers(paths["diabetes_target.csv.gz"], columns=1)
    _check_pair(entry, "train", inputs, target)
    return derived.held_out((inputs, target), entry.rows)


def _scenes(entry: Entry, paths: dict[str, Path]) -> dict[str, Pair]:
    """Pictures with up to four of the digits of a split; several labels: which are there."""
    digits = _digits(entry, paths)
    return {name: derived.scenes(*pair, rows=entry.rows[name]) for name, pair in digits.items()}


def _outlines(entry: Entry, paths: dict[str, Path]) -> dict[str, Pair]:
    """Digits in noise, twice as large; of each pixel whether it is outside, edge or inside."""
    return {name: derived.outlines(pair[0]) for name, pair in _digits(entry, paths).items()}


def _table(entry: Entry, paths: dict[str, Path], found: problems.Problems) -> Examples:
    """A CSV or Parquet file with columns of text or of numbers, and those of the target."""
    ((name, path),) = paths.items()
    reading = entry.reading
    text, numbers = (tuple(reading.get(kind, ())) for kind in ("text", "numbers"))
    answer = reading.get("target", {"columns": [reading.get("label")]})
    # Several labels in one column are named by the catalog, not by it.
    several = tuple(answer.get("columns", [answer["column"]] if "column" in answer else []))
    columns = table.Columns(
        entry.kind,
        several,
        text,
        numbers,
        reading.get("id"),
        answer.get("separator", ""),
        reading.get("group"),
        reading.get("time"),
    )
    return table.read(path, name, columns, found)


def _pictures(entry: Entry, paths: dict[str, Path], found: problems.Problems) -> Examples:
    """An archive of pictures for each class, or one of them and one of masks, or all alike."""
    height, width = entry.reading["size"]
    read = archive.read_with_masks if entry.kind == "mask" else archive.read
    examples = read(paths, (height, width), entry.reading["rgb"], found)
    return examples if entry.kind != "none" else _without_labels(examples)


def _arrays(entry: Entry, paths: dict[str, Path], found: problems.Problems) -> Examples:
    """One or two pairs of NPY or IDX files."""
    reading = entry.reading
    return raw.read(
        paths,
        reading["pairs"],
        found,
        entry.kind,
        names=tuple(reading.get("target", {}).get("columns", ())),
        integers=reading.get("integers", False),
    )


def _windows(entry: Entry, paths: dict[str, Path], found: problems.Problems) -> Examples:
    """Texts, cut into windows of bytes."""
    return windows.read(paths, entry.reading["window"], found)


def _without_labels(examples: Examples) -> Examples:
    return dataclasses.replace(examples, labels=[""] * len(examples.labels))


# Those that return examples with their places, which the catalog's shares then split ...
READERS: dict[str, Callable[[Entry, dict[str, Path], problems.Problems], Examples]] = {
    "table": _table,
    "pictures": _pictures,
    "arrays": _arrays,
    "windows": _windows,
}
# ... and those that return the splits as their makers, or this workbench, drew them.
DECODERS: dict[str, Callable[[Entry, dict[str, Path]], dict[str, Pair]]] = {
    "idx": _idx,
    "digits": _digits,
    "diabetes": _diabetes,
    "scenes": _scenes,
    "outlines": _outlines,
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


def _check(
    entry: Entry, split: str, rows: int, inputs: NDArray[Any], targets: NDArray[Any]
) -> None:
    _check_pair(entry, split, inputs, targets)
    kind = entry.kind
    for what, found, expected in (
        ("inputs", inputs.shape, (rows, *entry.shape)),
        (
            "labels" if kind == "class" else "targets",
            targets.shape,
            (rows, *target.shape_of(entry)),
        ),
    ):
        if found != expected:
            raise DataError(
                f"data {entry.name}: {split} has {what} of shape {found}, the catalog says "
                f"{expected}; correct the catalog or add the right files."
            )
    if kind not in ("class", "mask"):
        return
    if outside := sorted({*np.unique(targets).tolist()} - set(range(len(entry.labels)))):
        row = int(np.flatnonzero((targets == outside[0]).reshape(rows, -1).any(1))[0])
        raise DataError(
            f"data {entry.name}: row {row} of {split} has label {outside[0]}, expected 0 to "
            f"{len(entry.labels) - 1}; correct the file or the labels in the catalog."
        )


def _check_pair(entry: Entry, split: str, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
    if len(inputs) == 0:
        raise DataError(f"data {entry.name}: the {split} split is empty; add examples to it.")
    one_axis = targets.ndim == 1 or entry.kind != "class"
    if len(targets) != len(inputs) or not one_axis:
        raise DataError(
            f"data {entry.name}: {split} has labels of shape {targets.shape} for inputs of shape "
            f"{inputs.shape}, expected one for each input; add the right files."
        )
