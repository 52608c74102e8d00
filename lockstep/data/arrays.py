"""Decoded data sets as memory-mapped arrays: prepared once, opened in constant time."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data import decode as decoding
from lockstep.data.catalog import SPLITS, Entry
from lockstep.data.dataset import Dataset, Split
from lockstep.data.split import Fold
from lockstep.data.store import signature
from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.errors import DataError, WriteError
from lockstep.ground.files import (
    held,
    publish_folder,
    write_atomically,
    write_errors,
    write_flushed,
)


def open_dataset(
    entry: Entry,
    folder: Path,
    fetch: Callable[[Entry], dict[str, Path]],
    say: Callable[[str], None] = print,
    fold: Fold | None = None,
) -> Dataset:
    """Map the arrays of a data set, or of a fold of it, prepared first if they are not here yet.

    Nothing is read here but a manifest; pages come in as they are used. Arrays whose size or time
    changed since they were last checked are hashed again. Raises DataError if they were altered.
    """
    home = folder / _name(entry, fold)
    with write_errors(home):
        if not (home / "manifest.json").exists():
            _prepare(entry, home, fetch, say, fold)
        manifest = _manifest(entry, home)
        _verify(entry, home, manifest, say)
        splits = {
            split: Split(*(_mapped(home / f"{split}-{field}.npy") for field in _fields(entry)))
            for split in SPLITS
        }
    digest = digest_of(canonical_json(manifest))
    version, columns = f"{entry.name}@{entry.digest}", tuple(manifest.get("columns", ()))
    return Dataset(entry.name, entry.labels, digest, splits, version, entry.kind, columns)


def prepared(folder: Path) -> list[str]:
    """Return the digests of the data sets whose arrays are in a folder, unchecked."""
    manifests = [path.read_bytes() for path in folder.glob("*/manifest.json")]
    return [digest_of(canonical_json(json.loads(content))) for content in manifests]


def _fields(entry: Entry) -> tuple[str, str]:
    """The names of the two arrays of a split."""
    return "inputs", "labels" if entry.kind == "class" else "target"


def _name(entry: Entry, fold: Fold | None) -> str:
    """Name the arrays by what decides them: the files' digests and the decoding code."""
    code = [digest_of(path) for path in decoding.FILES]
    parts = [entry.digest, code, *([str(fold)] if fold else [])]
    return digest_of(canonical_json(parts))[:32]


def _prepare(
    entry: Entry,
    home: Path,
    fetch: Callable[[Entry], dict[str, Path]],
    say: Callable[[str], None],
    fold: Fold | None,
) -> None:
    def write(part: Path) -> None:
        sizes = {}
        for split, pair in decoding.decode(entry, fetch(entry), fold).items():
            for field, array in zip(_fields(entry), pair, strict=True):
                path = part / f"{split}-{field}.npy"
                with path.open("wb") as file:
                    # Not write_array, which gives no reason when the disk is full.
                    values = np.ascontiguousarray(array)
                    head = np.lib.format.header_data_from_array_1_0(values)
                    np.lib.format.write_array_header_1_0(file, head)
                    file.write(values.data)
                sizes[path.name] = digest_of(path)
        manifest = {"data": entry.name, "labels": entry.labels, "sha256": sizes}
        if entry.kind != "class":
            manifest["kind"] = entry.kind
        if columns := entry.reading.get("numbers"):
            manifest["columns"] = list(columns)
        write_flushed(part / "manifest.json", readable_json(manifest))

    home.parent.mkdir(parents=True, exist_ok=True)
    with held(home.parent, say):
        if not (home / "manifest.json").exists():  # another process may have been faster
            publish_folder(home, write)


def _manifest(entry: Entry, home: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((home / "manifest.json").read_bytes())
        if sorted({*manifest} - {"columns", "kind"}) == ["data", "labels", "sha256"]:
            return manifest
    except ValueError:
        pass
    raise DataError(
        f"data {entry.name}: {home / 'manifest.json'} is altered; remove the folder {home} and it "
        "is prepared again."
    )


def _verify(entry: Entry, home: Path, manifest: dict[str, Any], say: Callable[[str], None]) -> None:
    present = {name: signature(home / name) for name in manifest["sha256"]}
    if present == _checked(home):
        return
    with held(home, say):
        if present == _checked(home):  # another process may have been faster
            return
        for name, expected in manifest["sha256"].items():
            found = digest_of(home / name) if present[name] else "none"
            if found != expected:
                raise DataError(
                    f"data {entry.name}: {home / name} is altered (sha256 {found[:12]}, expected "
                    f"{expected[:12]}); remove the folder {home} and it is prepared again."
                )
        with suppress(WriteError):  # if this cannot be saved, each opening hashes again
            write_atomically(home / "checked.json", readable_json(present))


def _checked(home: Path) -> Any:
    try:
        return json.loads((home / "checked.json").read_text())
    except (OSError, ValueError):
        return None


def _mapped(path: Path) -> NDArray[Any]:
    # A plain view: np.memmap costs microseconds at each indexing.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
