"""Folders of pictures, one for each class, as archives: a zip for each, always the same bytes.

One file for a class is hashed, sent and checked at once, where 60,000 small ones would take 60,000
requests; a class that has not changed is not sent again.
"""

import hashlib
import zipfile
from pathlib import Path

import numpy as np

from lockstep.data.problems import Problems
from lockstep.data.split import Examples
from lockstep.ground.errors import DataError
from lockstep.ground.pictures import stored

_SUFFIX = ".zip"


def classes(folder: Path) -> list[Path]:
    """Return the folders of the classes, without hidden ones."""
    found = (path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    return sorted(found, key=lambda path: path.name)


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
            member = zipfile.ZipInfo("/".join(_inside(path, folder)), (1980, 1, 1, 0, 0, 0))
            member.create_system = 3
            member.external_attr = 0o644 << 16
            member.file_size = path.stat().st_size  # decides whether it needs the large format
            with path.open("rb") as source, file.open(member, "w") as target:
                while content := source.read(1 << 20):
                    target.write(content)


def read(paths: dict[str, Path], size: tuple[int, int], rgb: bool, problems: Problems) -> Examples:
    """Decode the pictures of all classes to ``size``: uint8 (rows, height, width) or (..., 3).

    The label is the archive's name. Unreadable pictures go to ``problems``.
    """
    inputs, labels, contents, places = [], [], [], []
    for name, path in paths.items():
        label = name.removesuffix(_SUFFIX)
        try:
            with zipfile.ZipFile(path) as file:
                for member in file.namelist():
                    place, content = f"{label}/{member}", file.read(member)
                    try:
                        inputs.append(stored(content, "", size, rgb=rgb))
                    except DataError as error:
                        problems.add(place, str(error).removeprefix(": "))
                        continue
                    labels.append(label)
                    contents.append(hashlib.sha256(content).digest())
                    places.append(place)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            problems.add(name, f"is not an archive of pictures ({error})")
    shape = (*size, 3) if rgb else size
    array = np.stack(inputs) if inputs else np.zeros((0, *shape), np.uint8)
    return Examples(array, labels, contents, contents, places)


def name_of(folder: Path) -> str:
    """Return the name of a class's archive."""
    return folder.name + _SUFFIX


def _inside(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts
