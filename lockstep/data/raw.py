"""Arrays as they are: NPY or IDX files, one of inputs and one of targets."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data import floats
from lockstep.data.idx import idx_array
from lockstep.data.problems import Problems, strange
from lockstep.data.split import Examples
from lockstep.ground.errors import DataError
from lockstep.program import Kind

# The names of a file of inputs and of one of targets; the first alone where there is no target.
Names = tuple[str, ...]
_SUFFIXES = (".npy", "-ubyte", "-ubyte.gz", ".idx", ".idx.gz")
_WORDS = {
    "inputs": "inputs",
    "images": "inputs",
    "labels": "labels",
    "targets": "targets",
    "masks": "masks",
}
_TARGETS = ("labels", "targets", "masks")
# Whole numbers of these types stay as they are, for models that look them up in a table.
_WHOLE = {
    "b": np.uint8, "i1": np.int8, "i2": np.int16, "u2": np.int32, "i4": np.int32,
    "u4": np.int64, "i8": np.int64, "u8": np.int64,
}  # fmt: skip


def pairs(folder: Path) -> dict[str, Names]:
    """Return the files in a folder: ``train`` and, with two pairs, ``test``; empty without any.

    A pair differs in its names by "inputs" or "images" and "labels", "targets" or "masks" alone
    (and by the number of axes in the names of IDX files); the test pair begins with "test" or
    "t10k". Without any targets, inputs stand alone. Raises DataError if it is not clear which files
    belong together.
    """
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(_SUFFIXES))
    stems: dict[str, dict[str, str]] = {}
    for name in names:
        for word, kind in _WORDS.items():
            if word in name:
                files = stems.setdefault(name.partition(word)[0], {})
                if kind in files:
                    raise DataError(
                        f"{folder}: found {files[kind]} and {name}, expected one file of {kind}; "
                        "move the others elsewhere."
                    )
                files[kind] = name
    with_inputs = {stem: files for stem, files in stems.items() if "inputs" in files}
    for files in with_inputs.values():
        if len(several := [files[kind] for kind in _TARGETS if kind in files]) > 1:
            raise DataError(
                f"{folder}: found {' and '.join(several)}, expected one of them; move the others "
                "elsewhere."
            )
    whole = {stem: files for stem, files in with_inputs.items() if len(files) == 2}
    chosen = whole or with_inputs
    tests = [stem for stem in chosen if stem.startswith(("test", "t10k"))]
    rest = [stem for stem in chosen if stem not in tests]
    if len(rest) != 1 or len(tests) > 1:
        return {}
    named = {"train": rest[0]} | ({"test": tests[0]} if tests else {})
    return {split: tuple(_ordered(chosen[stem])) for split, stem in named.items()}


def kind_of(folder: Path, names: Names) -> Kind:
    """Return the kind of target that the names of a pair, and the shape of its labels, say.

    ``labels`` are one class for each input or, with two axes, 0 or 1 for each of several labels;
    ``targets`` are numbers, ``masks`` a class for each pixel. Of unreadable labels it is "class".
    """
    if len(names) == 1:
        return "none"
    if "targets" in names[1]:
        return "numbers"
    if "masks" in names[1]:
        return "mask"
    try:
        return "labels" if _array(folder / names[1], names[1]).ndim == 2 else "class"
    except DataError:
        return "class"  # and reading it says what is wrong


def has_integers(folder: Path, names: Names) -> bool:
    """Whether the inputs are whole numbers, other than bytes, which stay as they are anyway."""
    try:
        dtype = _array(folder / names[0], names[0]).dtype
    except DataError:
        return False
    return dtype.kind in "bui" and dtype != np.uint8


def shape_of_target(folder: Path, names: Names) -> tuple[int, ...]:
    """Return the shape of one target; of unreadable ones ()."""
    try:
        return tuple(_array(folder / names[1], names[1]).shape[1:])
    except DataError:
        return ()


def read(
    paths: dict[str, Path],
    parts: dict[str, Names],
    problems: Problems,
    kind: Kind = "class",
    *,
    names: tuple[str, ...] = (),
    integers: bool = False,
) -> Examples:
    """The rows of the pairs; bytes stay bytes, other numbers become float32.

    With ``integers``, whole numbers stay whole, of the type that they have or the next larger one
    with a sign. ``names`` are those of several labels. Rows of inputs or targets that are not
    finite, and files that do not fit, go to ``problems``.
    """
    inputs, targets, labels, places = [], [], list[str](), list[str]()
    contents: list[bytes] = []
    for files in parts.values():
        values, marks = _pair(paths, files, kind, problems)
        if values is None:
            continue
        good = np.isfinite(values.reshape(len(values), -1)).all(1)
        for row in np.flatnonzero(~good):
            text = "has NaN or infinity, expected finite numbers"
            problems.add(f"{files[0]}, row {row + 1}", text)
        if kind == "numbers":
            finite = np.isfinite(marks.reshape(len(marks), -1)).all(1)
            for row in np.flatnonzero(~finite):
                text = "has NaN or infinity, expected finite numbers"
                problems.add(f"{files[1]}, row {row + 1}", text)
            good &= finite
        rows = np.flatnonzero(good) + 1
        contents += [hashlib.sha256(row.tobytes()).digest() for row in values[good]]
        inputs.append(_numbers(values[good], rows, files[0], problems, integers=integers))
        labels += _texts(kind, marks[good], names)
        if kind == "numbers":
            flat = marks[good].reshape(int(good.sum()), -1)
            columns = _numbers(flat, rows, files[1], problems)
            shape = marks.shape[1:] or (1,)
            targets.append(columns.astype(np.float32).reshape(-1, *shape))
        elif kind == "mask":
            targets.append(np.asarray(marks[good]))
        places += [f"{files[0]}, row {row}" for row in rows]
    for what, arrays in (("inputs", inputs), ("targets", targets)):
        if len({(values.shape[1:], values.dtype) for values in arrays}) > 1:
            shapes = " and ".join(f"{v.dtype} {v.shape[1:]}" for v in arrays)
            there = ", ".join(files[what == "targets"] for files in parts.values())
            problems.add(there, f"differ: {shapes}")
            arrays[1:] = []
    array = np.concatenate(inputs) if inputs else np.zeros((0, 0), np.uint8)
    target = np.concatenate(targets) if targets else None
    first = len(inputs[0]) if inputs else 0
    for_test = set(range(first, len(array))) if "test" in parts else set()
    keys = [hashlib.sha256(row.tobytes()).digest() for row in array]
    return Examples(array, labels, keys, contents, places, for_test, target)


def _pair(
    paths: dict[str, Path], files: Names, kind: Kind, problems: Problems
) -> tuple[Any, NDArray[Any]]:
    """The inputs and targets of two files that fit each other; None if they do not."""
    nothing = None, np.zeros(0)
    try:
        values = _array(paths[files[0]], files[0])
    except DataError as error:
        problems.add(files[0], str(error))
        return nothing
    if values.dtype.kind not in "buif":
        problems.add(files[0], f"has values of type {values.dtype}, expected numbers")
        return nothing
    if values.ndim < 2 and not (kind == "none" and values.ndim):
        problems.add(files[0], f"has shape {values.shape}, expected (rows, ...)")
        return nothing
    if not len(values):
        problems.add(files[0], f"has no rows (its shape is {values.shape}), expected some")
        return nothing
    if kind == "none":
        return values, np.zeros((len(values), 0), np.uint8)
    try:
        marks = _array(paths[files[1]], files[1])
    except DataError as error:
        problems.add(files[1], str(error))
        return nothing
    kinds, axes, expected = {
        "class": ("buiU", {1}, "a whole number or a text for each input"),
        "labels": ("bui", {2}, "0 or 1 for each input and label"),
        "numbers": ("buif", range(1, 99), "numbers for each input"),
        "mask": ("bui", range(2, 99), "whole numbers for the pixels of each input"),
    }[kind]
    fits = marks.dtype.kind in kinds and marks.ndim in axes and len(marks) == len(values)
    if not fits:
        problems.add(
            files[1],
            f"has {marks.dtype} of shape {marks.shape} for inputs of shape {values.shape}, "
            f"expected {expected}"
            + "; numbers to learn belong in targets.npy"
            * (kind == "class" and marks.dtype.kind == "f"),
        )
        return nothing
    if kind == "labels" and (wrong := np.flatnonzero(((marks != 0) & (marks != 1)).any(1))).size:
        problems.add(f"{files[1]}, row {wrong[0] + 1}", f"expected {expected}")
        return nothing
    return values, marks


def _numbers(
    values: NDArray[Any],
    rows: NDArray[np.int64],
    name: str,
    problems: Problems,
    *,
    integers: bool = False,
) -> NDArray[Any]:
    """The values of rows, counted from 1, of a type for models; reported if it can't hold them."""
    if values.dtype == np.uint8:
        return values
    if integers and values.dtype.kind in "bui":
        code = values.dtype.str.lstrip("<>|=").replace("b1", "b")
        if code == "u8" and values.size and values.max() > np.iinfo(np.int64).max:
            problems.add(name, f"has {values.max()}, expected whole numbers below 2**63")
        return values.astype(_WHOLE[code])
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(np.float32)
    flat, cut = values.reshape(len(values), -1), narrow.reshape(len(values), -1)
    lost = ~np.isfinite(cut) | ((cut == 0) & (flat != 0))
    for row in np.flatnonzero(lost.any(1)):
        found = flat[row][lost[row]][0]
        problems.add(
            f"{name}, row {rows[row]}", f"has {found:g}, expected finite numbers of 32 bits"
        )
    if values.dtype.itemsize > 4 and values.ndim <= 2 and not lost.any():
        columns = [str(number + 1) for number in range(flat.shape[1])]
        floats.as_float32(flat, columns, [f"row {row}" for row in rows], name, problems)
    return narrow


def _texts(kind: Kind, marks: NDArray[Any], names: tuple[str, ...]) -> list[str]:
    """The labels of rows as texts; of a mask its digest, of no target nothing."""
    if kind == "class":
        return [str(mark) for mark in marks.tolist()]
    if kind == "labels":
        return ["\n".join(names[number] for number in np.flatnonzero(row)) for row in marks]
    if kind == "numbers":
        rows = marks.reshape(len(marks), -1)
        return ["\n".join(f"{number:g}" for number in row[:8].tolist()) for row in rows]
    if kind == "mask":
        return [hashlib.sha256(mark.tobytes()).hexdigest()[:8] for mark in marks]
    return [""] * len(marks)


def _ordered(files: dict[str, str]) -> list[str]:
    return [files[kind] for kind in ("inputs", *_TARGETS) if kind in files]


def _array(path: Path, name: str) -> NDArray[Any]:
    """The array in a file. Raises DataError with what is wrong, without the file's name."""
    if fault := strange(path, name):
        raise DataError(fault)
    if not name.endswith(".npy"):
        try:
            return idx_array(path, packed=name.endswith(".gz"))
        except DataError as error:
            raise DataError(" ".join(str(error).removeprefix(f"{path}: ").split())) from error
    try:
        return np.lib.format.open_memmap(path, mode="r")  # np.load would open a zip archive, too
    except (ValueError, EOFError) as error:
        reason = str(error)
        if "Python objects" in reason:
            raise DataError("holds Python objects, expected numbers or texts") from error
        if "got b'PK" in reason:
            raise DataError(
                "is a zip archive, expected an array; save it with numpy.save"
            ) from error
        raise DataError(f"is not an NPY file ({reason}); save it with numpy.save") from error
