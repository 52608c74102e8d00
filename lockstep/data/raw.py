"""Arrays as they are: pairs of NPY or IDX files, one of inputs and one of labels."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.idx import idx_array
from lockstep.data.problems import Problems
from lockstep.data.split import Examples
from lockstep.ground.errors import DataError

Pair = tuple[str, str]  # the names of a file of inputs and of a file of labels
_SUFFIXES = (".npy", "-ubyte", "-ubyte.gz", ".idx", ".idx.gz")


def pairs(folder: Path) -> dict[str, Pair]:
    """Return the pairs in a folder: ``train`` and, with two, ``test``; empty without any.

    A pair differs in its names by "inputs" or "images" and "labels" alone (and by the number of
    axes in the names of IDX files); the test pair begins with "test" or "t10k".
    """
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(_SUFFIXES))
    stems: dict[str, dict[str, str]] = {}
    for name in names:
        for word, kind in (("inputs", "inputs"), ("images", "inputs"), ("labels", "labels")):
            if word in name:
                stems.setdefault(name.partition(word)[0], {})[kind] = name
    found = {stem: pair for stem, pair in stems.items() if len(pair) == 2}
    tests = [stem for stem in found if stem.startswith(("test", "t10k"))]
    rest = [stem for stem in found if stem not in tests]
    if len(rest) != 1 or len(tests) > 1:
        return {}
    named = {"train": rest[0]} | ({"test": tests[0]} if tests else {})
    return {split: (found[stem]["inputs"], found[stem]["labels"]) for split, stem in named.items()}


def read(paths: dict[str, Path], parts: dict[str, Pair], problems: Problems) -> Examples:
    """The rows of the pairs; bytes stay bytes, other numbers become float32.

    Rows of inputs that are not finite, and files that do not fit, go to ``problems``.
    """
    inputs, labels, places = [], list[str](), list[str]()
    for images, names in parts.values():
        try:
            values, marks = _array(paths[images], images), _array(paths[names], names)
        except DataError as error:
            problems.add(images, " ".join(str(error).split()))
            continue
        if marks.shape != values.shape[:1] or values.ndim < 2 or marks.dtype.kind not in "iuU":
            problems.add(
                names,
                f"has {marks.dtype} of shape {marks.shape} for inputs of shape {values.shape}, "
                "expected a whole number or a text for each input",
            )
            continue
        if values.dtype.kind not in "uif":
            problems.add(images, f"has values of type {values.dtype}, expected numbers")
            continue
        if values.dtype != np.uint8:
            with np.errstate(over="ignore"):  # to infinity, which is reported below
                values = values.astype(np.float32)
        good = np.isfinite(values.reshape(len(values), -1)).all(1)
        for row in np.flatnonzero(~good):
            problems.add(f"{images}, row {row + 1}", "has NaN or infinity, expected finite numbers")
        inputs.append(values[good])
        labels += [str(mark) for mark in marks[good].tolist()]
        places += [f"{images}, row {row + 1}" for row in np.flatnonzero(good)]
    if len({values.shape[1:] for values in inputs}) > 1 or len({v.dtype for v in inputs}) > 1:
        shapes = " and ".join(f"{v.dtype} {v.shape[1:]}" for v in inputs)
        problems.add(", ".join(images for images, _ in parts.values()), f"differ: {shapes}")
        inputs = inputs[:1]
    array = np.concatenate(inputs) if inputs else np.zeros((0, 0), np.uint8)
    contents = [hashlib.sha256(row.tobytes()).digest() for row in array]
    first = len(inputs[0]) if inputs else 0
    for_test = set(range(first, len(array))) if "test" in parts else set()
    return Examples(array, labels, contents, contents, places, for_test)


def _array(path: Path, name: str) -> NDArray[Any]:
    if not name.endswith(".npy"):
        return idx_array(path, packed=name.endswith(".gz"))
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise DataError(f"{name}: is not an NPY file of numbers ({error})") from error
