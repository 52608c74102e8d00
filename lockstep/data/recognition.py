"""What lies at a path, and how it is read: a table, pictures, arrays or texts."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lockstep.data import archive, raw
from lockstep.data.problems import Problems
from lockstep.ground.errors import DataError

TABLES = (".csv", ".tsv", ".parquet", ".pq")
TEXTS = (".txt",)


@dataclass(frozen=True)
class Request:
    """What to add, under which name, and how to read it.

    ``label`` names the columns of the label: one with a class, or several of 0 and 1;
    ``labels_from`` a column with several labels, with a ``separator``; ``target`` those of numbers;
    ``no_target`` says that there is none. Of a table, rows with one value in the column ``group``,
    or in ``time``, stay in one split, and the latest are for test. ``classes`` has the names of the
    values of masks, or of labels in arrays. ``size`` (height, width) and ``rgb`` are for pictures,
    ``window``, in bytes, for texts; ``validation`` and ``test`` are the shares of those splits.
    """

    path: Path
    name: str
    label: tuple[str, ...] = ()
    labels_from: str | None = None
    separator: str = ";"
    target: tuple[str, ...] = ()
    no_target: bool = False
    classes: dict[int, str] = field(default_factory=dict)
    text: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    id: str | None = None
    group: str | None = None
    time: str | None = None
    size: tuple[int, int] | None = None
    rgb: bool = False
    window: int | None = None
    validation: float = 0.1
    test: float = 0.1
    title: str | None = None
    licence: str | None = None
    origin: str | None = None


@dataclass(frozen=True)
class Source:
    """A decoder, its parameters, and the files by name."""

    decoder: str
    reading: dict[str, Any]
    paths: dict[str, Path]


def recognised(request: Request, packed: Path, say: Callable[[str], None]) -> Source:
    """Return how a path is read; archives of pictures are written into the folder ``packed``.

    Raises DataError for what is no data set, and for options that are missing or do not fit.
    """
    path = request.path
    suffix = path.suffix.lower()
    if path.is_file() and suffix in TABLES:
        return _table(request)
    for option, column in (("--group", request.group), ("--time", request.time)):
        if column:
            raise DataError(
                f"{option}: found {column}, expected it for tables alone, whose columns have names."
            )
    if (path.is_file() and suffix in TEXTS) or (path.is_dir() and _texts(path)):
        return _windows(request)
    if path.is_dir() and (pairs := raw.pairs(path)):
        return _arrays(request, pairs)
    if path.is_dir() and (archive.folders(path) or (request.no_target and archive.members(path))):
        return _pictures(request, packed, say)
    raise DataError(
        f"{path}: found {'nothing' if not path.exists() else 'no data set'}, expected a table "
        f"({', '.join(TABLES)}), a folder with a folder of pictures for each class, or a folder "
        "with inputs.npy and labels.npy or such IDX files."
    )


def archives(path: Path, kind: str, folder: Path) -> dict[str, Path]:
    """Write an archive for each folder of pictures into a folder; return them by their names.

    Raises DataError with all that would be lost: links to nothing, empty folders, odd names.
    """
    inside, problems = _folders(path, kind), Problems()
    archive.check(path, inside, problems)
    problems.refuse(path.name)
    found = {name: folder / f"{number}" for number, name in enumerate(inside)}
    for name, one in inside.items():
        archive.pack(one, found[name])
    return found


def _table(request: Request) -> Source:
    path = request.path
    answers = [request.label, request.labels_from, request.target, request.no_target]
    if sum(map(bool, answers)) != 1 or bool(request.text) == bool(request.numbers):
        raise DataError(
            f"{path}: a table needs --label COLUMN and either --text COLUMN or --numbers COLUMN, "
            "for each column that is an input. Instead of --label: --target COLUMN for numbers, "
            "--labels-from COLUMN for several labels, or --no-target."
        )
    columns = {"text": list(request.text), "numbers": list(request.numbers)}
    reading: dict[str, Any] = {kind: names for kind, names in columns.items() if names}
    if len(request.label) == 1:
        reading["label"] = request.label[0]
    elif request.label:
        reading["target"] = {"kind": "labels", "columns": list(request.label)}
    elif request.labels_from:
        several = {"column": request.labels_from, "separator": request.separator}
        reading["target"] = {"kind": "labels"} | several
    elif request.target:
        reading["target"] = {"kind": "numbers", "columns": list(request.target)}
    else:
        reading["target"] = {"kind": "none"}
    answer = {*request.label, *request.target, request.labels_from}
    if both := [one for one in (*request.text, *request.numbers) if one in answer]:
        raise DataError(f"column {both[0]}: found as input and as target, expected one of them.")
    if request.group and request.time:
        raise DataError(f"--group {request.group}, --time {request.time}: expected one of them.")
    places = {"id": request.id, "group": request.group, "time": request.time}
    reading |= {what: column for what, column in places.items() if column}
    return Source("table", reading | {"shares": _shares(request)}, {_name(path): path})


def _windows(request: Request) -> Source:
    path = request.path
    if not request.window or not request.no_target:
        raise DataError(
            f"{path}: a text needs --no-target and --window BYTES, the length of an example."
        )
    found = _texts(path) if path.is_dir() else [path]
    reading = {"window": request.window, "target": {"kind": "none"}, "shares": _shares(request)}
    return Source("windows", reading, {_name(one): one for one in found})


def _arrays(request: Request, pairs: dict[str, raw.Names]) -> Source:
    path, shares = request.path, _shares(request)
    if "test" in pairs:  # the makers' own split
        del shares["test"]
    names = pairs["train"]
    if request.no_target:
        pairs = {split: files[:1] for split, files in pairs.items()}
    elif len(names) == 1:
        raise DataError(
            f"{path}: found {names[0]} alone, expected labels, targets or masks beside it; or say "
            "--no-target."
        )
    kind = raw.kind_of(path, pairs["train"])
    reading: dict[str, Any] = {"pairs": {split: list(files) for split, files in pairs.items()}}
    if kind != "class":
        reading["target"] = {"kind": kind} | _shape(request, kind, pairs["train"])
    if raw.has_integers(path, names):
        reading["integers"] = True
    paths = {name: path / name for files in pairs.values() for name in files}
    return Source("arrays", reading | {"shares": shares}, paths)


def _shape(request: Request, kind: str, names: raw.Names) -> dict[str, Any]:
    """What the catalog says of targets beside their kind: names of columns, or a shape."""
    if kind == "none":
        return {}
    shape = raw.shape_of_target(request.path, names) or (1,)
    if kind == "mask" or len(shape) > 1:
        return {"shape": list(shape)}
    columns = list(request.target) if kind == "numbers" else list(request.classes.values())
    columns = columns or (["target"] if shape == (1,) else [str(n) for n in range(shape[0])])
    if len(columns) != shape[0]:
        option = "--target" if kind == "numbers" else "--classes"
        raise DataError(
            f"{option}: found {len(columns)} names, expected {shape[0]}, one for each column of "
            f"{names[1]}."
        )
    return {"columns": columns}


def _pictures(request: Request, packed: Path, say: Callable[[str], None]) -> Source:
    path, shares = request.path, _shares(request)
    if not request.size:
        raise DataError(f"{path}: a folder of pictures needs --size HEIGHTxWIDTH.")
    kind = "none" if request.no_target else "mask" if _has_masks(path) else "class"
    count = len(_folders(path, kind))
    what = {"class": "class", "mask": "folder", "none": "folder"}[kind]
    say(f"packing {count:,} {what}{'es' * (kind == 'class')} of pictures")
    reading: dict[str, Any] = {"size": list(request.size), "rgb": request.rgb}
    if kind != "class":
        reading["target"] = {"kind": kind}
    paths = archives(path, kind, packed)
    drawn = {name.partition("/")[0] for name in paths if "/" in name}
    shares = {split: share for split, share in shares.items() if split not in drawn}
    return Source("pictures", reading | {"shares": shares}, paths)


def _folders(path: Path, kind: str) -> dict[str, Path]:
    """The folders of which archives are made, by their names."""
    if kind == "class":
        return archive.classes(path)
    if kind == "mask":
        return {archive.name_of(one): one for one in archive.folders(path)}
    names = {one.name.lower() for one in archive.folders(path)}
    drawn = archive.drawn(path) if "train" in names else {}
    return {f"{split}/pictures.zip": one for split, one in drawn.items()} or {"pictures.zip": path}


def _has_masks(path: Path) -> bool:
    return {one.name for one in archive.folders(path)} == {archive.IMAGES, archive.MASKS}


def _texts(path: Path) -> list[Path]:
    """The texts in a folder that has nothing but texts."""
    found = sorted(one for one in path.iterdir() if one.name[0] != ".")
    return found if all(one.suffix.lower() in TEXTS and one.is_file() for one in found) else []


def _name(path: Path) -> str:
    """A file's name in UTF-8, whatever the locale says."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def _shares(request: Request) -> dict[str, float]:
    return {"validation": request.validation, "test": request.test}
