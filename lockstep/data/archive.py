"""Folders of pictures as archives: a zip for each folder, always the same bytes.

One file for a class is hashed, sent and checked at once, where 60,000 small ones would take 60,000
requests; a class that has not changed is not sent again.
"""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lockstep.data.problems import Problems, strange
from lockstep.data.split import Examples
from lockstep.ground import pictures
from lockstep.ground.errors import DataError, printable

_SUFFIX = ".zip"
_PICTURES = (".png", ".jpg", ".jpeg")
IMAGES, MASKS = "images", "masks"
# What folders that are splits are called, by the split.
_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}


def folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones."""
    found = (path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    return sorted(found, key=lambda path: path.name)


def drawn(folder: Path) -> dict[str, Path]:
    """Return the folders of splits that makers drew, by split; empty where there are none.

    Raises DataError if only some of the folders are splits.
    """
    found = folders(folder)
    known = {_SPLITS[path.name.lower()]: path for path in found if path.name.lower() in _SPLITS}
    if "train" not in known or len(known) < 2:
        return {}
    if others := [path.name for path in found if path not in known.values()]:
        names = " and ".join(path.name for path in known.values())
        raise DataError(
            f"{folder}: found {names}, which are splits, beside {others[0]}, expected only splits "
            "or only classes; move the others elsewhere."
        )
    return known


def classes(folder: Path) -> dict[str, Path]:
    """Return the folders of the classes by the names of their archives.

    A split that makers drew is in them, too: ``test/cat.zip``. Raises DataError as ``drawn`` does,
    and if such splits have no classes.
    """
    parts = drawn(folder)
    if not parts:
        return {name_of(path): path for path in folders(folder)}
    for path in parts.values():
        if not folders(path):
            raise DataError(
                f"{path}: found no folders, expected one for each class, since "
                f"{' and '.join(one.name for one in parts.values())} are splits; with --no-target "
                "pictures need no classes."
            )
    return {
        f"{split}/{name_of(one)}": one for split, path in parts.items() for one in folders(path)
    }


def check(folder: Path, inside: dict[str, Path], problems: Problems) -> None:
    """Report what would be lost in a folder's archives, without opening a picture."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists():
            problems.add(_shown(path, folder), _DANGLING)
        elif path.is_file() and path.suffix.lower() in _PICTURES and path.name[0] != ".":
            text = "lies beside the folders, expected inside one of them"
            problems.add(_shown(path, folder), text)
    for one in inside.values():
        for path in (one, *sorted(one.rglob("*"))):
            if any(part[0] == "." for part in path.relative_to(folder).parts):
                continue
            if not _is_utf8(path.name):
                problems.add(_shown(path, folder), "its name is not in UTF-8; rename it")
            if path.is_symlink() and not path.exists():
                problems.add(_shown(path, folder), _DANGLING)
        if not members(one):
            problems.add(
                _shown(one, folder), "has no pictures, expected some; or remove the folder"
            )


def members(folder: Path) -> list[Path]:
    """Return the files of a class in order, without hidden ones."""
    found = (path for path in folder.rglob("*") if path.is_file())
    inside = [path for path in found if not any(p[0] == "." for p in _inside(path, folder))]
    return sorted(inside, key=lambda path: _inside(path, folder))


def pack(folder: Path, archive: Path) -> None:
    """Write a class into an archive; the same files give the same bytes on every machine.

    Stored, not deflated: pictures are packed already, and zlibs differ.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in members(folder):
            name = _decoded("/".join(_inside(path, folder)))
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            member.external_attr = 0o644 << 16
            member.file_size = path.stat().st_size  # decides whether it needs the large format
            with path.open("rb") as source, file.open(member, "w") as target:
                while content := source.read(1 << 20):
                    target.write(content)


def read(paths: dict[str, Path], size: tuple[int, int], rgb: bool, problems: Problems) -> Examples:
    """Decode the pictures of all archives to ``size``: uint8 (rows, height, width) or (..., 3).

    The label is the archive's name. Unreadable pictures go to ``problems``.
    """
    inputs, labels, contents, places = [], list[str](), list[bytes](), list[str]()
    held: dict[str, set[int]] = {"test": set(), "validation": set(), "train": set()}
    for name, path in paths.items():
        split, _, label = name.removesuffix(_SUFFIX).rpartition("/")
        for place, content in _contents(path, name, problems):
            try:
                inputs.append(pictures.stored(content, "", size, rgb=rgb))
            except DataError as error:
                problems.add(place, str(error).removeprefix(": "))
                continue
            held[split or "train"].add(len(labels))
            labels.append(label)
            contents.append(hashlib.sha256(content).digest())
            places.append(place)
    array = _stacked(inputs, (*size, 3) if rgb else size)
    test, validation = held["test"], held["validation"]
    return Examples(array, labels, contents, contents, places, test, for_validation=validation)


def read_with_masks(
    paths: dict[str, Path], size: tuple[int, int], rgb: bool, problems: Problems
) -> Examples:
    """Decode pictures, and for each the mask of its name: uint8 (rows, height, width)."""
    masks: dict[str, tuple[str, bytes]] = {}
    for place, content in _contents(paths[MASKS + _SUFFIX], MASKS + _SUFFIX, problems):
        there, _ = masks.setdefault(_stem(place), (place, content))
        if there != place:
            problems.add(place, f"has the name of {there}; remove one of them")
    inputs, targets, keys, places, labels = [], [], list[bytes](), list[str](), list[str]()
    for place, content in _contents(paths[IMAGES + _SUFFIX], IMAGES + _SUFFIX, problems):
        name = _stem(place)
        if name not in masks:
            problems.add(place, f"has no mask, expected {MASKS}/{name}.png")
            continue
        there, drawn = masks.pop(name)
        try:
            extent = pictures.extent(content)
            picture = pictures.stored(content, "", size, rgb=rgb)
        except DataError as error:
            problems.add(place, str(error).removeprefix(": "))
            continue
        try:
            shape, mask = pictures.extent(drawn), pictures.mask(drawn, size)
        except DataError as error:
            problems.add(there, str(error).removeprefix(": "))
            continue
        if shape != extent:
            text = f"has {shape[0]} x {shape[1]} pixels, its picture {extent[0]} x {extent[1]}"
            problems.add(there, f"{text}, expected the same size")
            continue
        inputs.append(picture)
        targets.append(mask)
        keys.append(hashlib.sha256(content).digest())
        places.append(place)
        labels.append(hashlib.sha256(mask.tobytes()).hexdigest()[:8])
    for place, _ in masks.values():
        problems.add(place, f"has no picture, expected one of that name in {IMAGES}")
    array = _stacked(inputs, (*size, 3) if rgb else size)
    return Examples(array, labels, keys, keys, places, target=_stacked(targets, size))


def name_of(folder: Path) -> str:
    """Return the name of a folder's archive."""
    return _shown(folder, folder.parent) + _SUFFIX


_DANGLING = "is a link to a file that does not exist; put the file there or remove the link"


def _contents(path: Path, name: str, problems: Problems) -> Iterator[tuple[str, bytes]]:
    """The files in an archive, each with its place."""
    if fault := strange(path, name):
        problems.add(name, fault)
        return
    try:
        with zipfile.ZipFile(path) as file:
            for member in file.namelist():
                content = file.read(member)
                place = f"{name.removesuffix(_SUFFIX)}/{member}"
                if content.startswith(b"version https://git-lfs.github.com/spec/"):
                    problems.add(
                        place, "is a Git LFS pointer, expected a picture; run `git lfs pull`"
                    )
                    continue
                yield place, content
    except (zipfile.BadZipFile, NotImplementedError) as error:
        problems.add(name, f"is not an archive of pictures ({error})")


def _stem(place: str) -> str:
    """The path of a file in its archive, without the suffix."""
    return PurePosixPath(place).with_suffix("").as_posix().partition("/")[2]


def _stacked(arrays: list[NDArray[np.uint8]], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.stack(arrays) if arrays else np.zeros((0, *shape), np.uint8)


def _inside(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts


def _is_utf8(name: str) -> bool:
    try:
        return bool(_decoded(name))
    except UnicodeDecodeError:
        return False


def _decoded(name: str) -> str:
    """A file's name as UTF-8, whatever the locale says that it is in."""
    return os.fsencode(name).decode("utf-8")


def _shown(path: Path, folder: Path) -> str:
    name = os.fsencode("/".join(_inside(path, folder)))
    return printable(name.decode("utf-8", "backslashreplace"))
