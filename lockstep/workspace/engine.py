"""The engine in ``lockstep/``: its version, and which of its files were edited.

``manifest.txt`` has the digest of each file, as sha256sum writes it, so the question needs neither
a history nor a network. The engine's developers write it before a release:
``python -m lockstep.workspace.engine``; ``sha256sum --check manifest.txt`` reads it as well.
"""

import hashlib
import os
import subprocess
from pathlib import Path

from lockstep import __version__
from lockstep.ground.files import write_atomically
from lockstep.ground.home import ENGINE, ROOT

MANIFEST = "manifest.txt"


def edits(folder: Path = ENGINE) -> list[str]:
    """List the engine's files that differ from the release, missing ones included.

    An installed engine has no tests and pages, so there missing files do not count.
    """
    complete = (folder.parent / "workbench").exists()
    return [
        name
        for name, digest in sorted(_manifest(folder).items())
        if (complete or (folder / name).exists()) and _digest(folder / name) != digest
    ]


def summary(folder: Path = ENGINE, most: int = 3) -> str:
    """Describe the engine in a line: ``engine 1.0.0, 0 files edited``."""
    if not (folder / MANIFEST).exists():
        return f"engine {__version__}; {MANIFEST} not found, so edits cannot be listed"
    names = edits(folder)
    more = ", ..." if len(names) > most else ""
    listed = f" ({', '.join(f'lockstep/{name}' for name in names[:most])}{more})" if names else ""
    return f"engine {__version__}, {len(names)} {'file' if len(names) == 1 else 'files'} edited" + (
        listed
    )


def write_manifest(folder: Path = ENGINE) -> Path:
    """Write the digests of all files of the engine that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, check=True)
    names = sorted(name for name in os.fsdecode(listed.stdout).split("\0") if name)
    lines = [
        f"{_digest(folder / name)}  {name}\n"
        for name in names
        if name != MANIFEST and (folder / name).is_file()
    ]
    write_atomically(folder / MANIFEST, "".join(lines).encode())
    return folder / MANIFEST


def _manifest(folder: Path) -> dict[str, str]:
    lines = (folder / MANIFEST).read_text().splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


if __name__ == "__main__":
    print(write_manifest().relative_to(ROOT))
