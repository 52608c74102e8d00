"""The manifest of a bundle: whose weights it holds, and the digest of each of its files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lockstep.ground.digests import digest_of, readable_json
from lockstep.ground.errors import BundleError

NAME, SIGNATURE = "manifest.json", "signature.json"
SCHEMA = 1
_FACTS = ("model", "version", "profile")  # that loading needs
_BYTECODE = "__pycache__"


def make(files: Mapping[str, bytes], facts: Mapping[str, Any]) -> bytes:
    """Return the bytes of ``manifest.json``: the facts, and size and digest of each file."""
    rows = {name: {"sha256": digest_of(c), "size": len(c)} for name, c in files.items()}
    return readable_json({"schema": SCHEMA, **facts, "files": rows})


def read(folder: Path) -> dict[str, Any]:
    """Read the manifest of an unpacked bundle. Raises BundleError if it is not one."""
    path = folder / NAME
    try:
        return parse(path, path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}, expected a bundle.") from error


def parse(path: Path, content: bytes) -> dict[str, Any]:
    """Parse a manifest; ``model``, ``version`` and ``profile`` are texts in it.

    Raises BundleError, which names the path, for any other content.
    """
    try:
        facts: Any = json.loads(content)
        if facts["schema"] != SCHEMA:
            raise BundleError(
                f"{path}: found schema {facts['schema']!r}, expected {SCHEMA}; use the version of "
                "Lockstep that wrote it."
            )
        for name, row in facts["files"].items():
            if {"", ".", ".."} & set(name.split("/")) or not isinstance(row["sha256"], str):
                raise ValueError(f"{name!r} is not a file of a bundle")
        for name in _FACTS:
            if not isinstance(facts.get(name), str):
                raise TypeError(f"{name}: found {facts.get(name)!r:.40}, expected a text")
        return dict(facts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"{path}: not the manifest of a bundle ({error}); it was altered."
        ) from error


def verify(folder: Path, *, whole: bool) -> dict[str, Any]:
    """Read the manifest of an unpacked bundle and check each file against it.

    With ``whole`` there may be no other file. Without it there may, as a server puts its own beside
    the weights; but none in ``code/``, where Python would find it, except Python's own bytecode.
    Raises BundleError that names the file.
    """
    facts = read(folder)
    for name, row in facts["files"].items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path}: missing, or not a plain file; unpack the bundle again.")
        if (digest := digest_of(path)) != row["sha256"]:
            raise BundleError(
                f"{path}: found sha256 {digest[:12]}, expected {row['sha256'][:12]} as in the "
                "manifest; the file was altered. Restore a good copy of the bundle."
            )
    known = {*facts["files"], NAME, SIGNATURE}
    there = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in sorted(there):
        name = path.relative_to(folder)
        counts = whole or (name.parts[0] == "code" and _BYTECODE not in name.parts)
        if counts and name.as_posix() not in known:
            raise BundleError(f"{path}: not in the manifest, so it was added; remove it.")
    return facts
