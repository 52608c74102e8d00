"""What a bundle says of itself: whose weights they are, and the digest of each of its files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lockstep.ground.digests import digest_of, readable_json
from lockstep.ground.errors import BundleError

NAME, SIGNATURE = "manifest.json", "signature.json"
SCHEMA = 1
_FACTS = ("model", "version", "profile")  # that who loads it needs
_BYTECODE = "__pycache__"


def written(files: Mapping[str, bytes], facts: Mapping[str, Any]) -> bytes:
    """The bytes of ``manifest.json``: the facts, and size and digest of each file."""
    rows = {name: {"sha256": digest_of(c), "size": len(c)} for name, c in files.items()}
    return readable_json({"schema": SCHEMA, **facts, "files": rows})


def read(folder: Path) -> dict[str, Any]:
    """The manifest of an unpacked bundle. Raises BundleError if it is none."""
    path = folder / NAME
    try:
        return parsed(path, path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; wanted a bundle.") from error


def parsed(path: Path, content: bytes) -> dict[str, Any]:
    """The manifest that has this content, with the texts ``model``, ``version`` and ``profile``.

    Raises BundleError, which names the path, if it is none.
    """
    try:
        found: Any = json.loads(content)
        if found["schema"] != SCHEMA:
            raise BundleError(
                f"{path}: found schema {found['schema']!r}, wanted {SCHEMA}; use the version of "
                "Lockstep that wrote it."
            )
        for name, row in found["files"].items():
            if {"", ".", ".."} & set(name.split("/")) or not isinstance(row["sha256"], str):
                raise ValueError(f"{name!r} is no file of a bundle")
        for name in _FACTS:
            if not isinstance(found.get(name), str):
                raise TypeError(f"{name}: found {found.get(name)!r:.40}, wanted a text")
        return dict(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path}: no manifest of a bundle ({error}); it was altered.") from error


def verified(folder: Path, *, whole: bool) -> dict[str, Any]:
    """The manifest of an unpacked bundle, each of whose files is as it says.

    ``whole``: there is no other file. Else there may be, for a server puts its own beside the
    weights; but none in ``code/``, where Python would find it, save Python's own bytecode.
    Raises BundleError that names the file.
    """
    found = read(folder)
    for name, row in found["files"].items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path}: is missing, or no plain file; unpack the bundle again.")
        if (digest := digest_of(path)) != row["sha256"]:
            raise BundleError(
                f"{path}: found sha256 {digest[:12]}, the manifest says {row['sha256'][:12]}; the "
                "file was altered. Bring a good copy of the bundle."
            )
    known = {*found["files"], NAME, SIGNATURE}
    there = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in sorted(there):
        name = path.relative_to(folder)
        counts = whole or (name.parts[0] == "code" and _BYTECODE not in name.parts)
        if counts and name.as_posix() not in known:
            raise BundleError(f"{path}: is not in the manifest; it was added. Remove it.")
    return found
