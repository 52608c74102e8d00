"""Installed files against the RECORD of their wheels (PEP 376): which wheel, what was edited."""

import base64
import csv
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lockstep.ground import environment
from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.environment import Locked, normal

# How an identity marks a package that is not the lock's, or whose files were edited.
DRIFTED, EDITED, WHEEL = "not as locked", "edited", "wheel"


class Installed(NamedTuple):
    """A file of an installed package, with the size and the digest that its wheel says.

    Every start looks at thousands of them, so a path is a text, and little is made of each.
    """

    path: str
    size: int
    sha256: str  # URL-safe base64 without padding, as RECORD has it
    installed: int  # when the package was, in nanoseconds

    def stat(self) -> os.stat_result | None:
        """The file as it is now; None where an image has left it out."""
        try:
            return os.stat(self.path)  # noqa: PTH116
        except OSError:
            return None

    def may_differ(self) -> bool:
        """Whether size or time say that the file was written after its package."""
        now = self.stat()
        return now is not None and (now.st_size != self.size or now.st_mtime_ns > self.installed)

    def differs(self) -> bool:
        """Whether the content differs from the wheel's."""
        if self.stat() is None:
            return False
        with Path(self.path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=") != self.sha256


def as_identity(names: Iterable[str], locked: Mapping[str, Locked]) -> dict[str, list[str]]:
    """Return what an identity says of packages: name to version and to the wheel it came from.

    The lock's hashes are in none: the files of other platforms come and go there.
    """
    names = sorted(names)
    versions, wheels, changed = environment.installed(), digests(names), edited(names)
    result = {}
    for name in names:
        version, wheel = versions.get(name, "none"), f"{WHEEL} {wheels.get(name, 'unknown')}"
        if name not in versions:
            known = "not installed"
        elif name in changed:
            contents = [digest_of(path) for path in changed[name]]
            known = f"{EDITED} {digest_of(canonical_json([wheel, *contents]))}"
        elif name in locked and locked[name]["version"] == version:
            known = wheel
        else:
            known = f"{DRIFTED}, {wheel}"
        result[name] = [version, known]
    return result


def digests(names: Iterable[str]) -> dict[str, str]:
    """Return a digest of the wheel that each of these distributions was installed from, by name.

    It is the same for every installer and folder, and another for another platform's wheel. A
    package without a RECORD, as one that the system installed, has none.
    """
    return {name: digest_of(_contents(record)) for name, record in _records(names)}


def _contents(record: Path) -> bytes:
    """The files of a wheel with their digests: what an installer adds or writes is left out.

    That is all of the ``.dist-info`` folder but WHEEL, which has the tags of the platform; scripts
    and data outside of ``site-packages``; and bytecode.
    """
    info = record.parent.name
    with record.open(newline="") as file:
        lines = [
            f"{name},{digest}\n"
            for name, digest, _ in csv.reader(file)
            if digest
            and (not name.startswith(f"{info}/") or name == f"{info}/WHEEL")
            and not name.startswith("../")
            and not name.endswith(".pyc")
        ]
    return "".join(sorted(lines)).encode()


def edited(names: Iterable[str], *, thorough: bool = False) -> dict[str, list[Path]]:
    """Return the files of these distributions that are not those of their wheels, by name.

    Size and time choose what is read, about 0.04 s for torch and its kind; ``thorough`` reads all.
    Of interest is what Python loads: sources and libraries. A package without digests, as one that
    the system installed, has none.
    """
    result: dict[str, list[Path]] = {}
    for name, record in _records(names):
        for file in _loadable(record):
            if (thorough or file.may_differ()) and file.differs():
                result.setdefault(name, []).append(Path(file.path))
    return result


def shared(names: Iterable[str]) -> list[str]:
    """Return the distributions that share files with another environment, by hard links."""
    return [
        name
        for name, record in _records(names)
        if any((now := file.stat()) and now.st_nlink > 1 for file in _loadable(record))
    ]


def _records(names: Iterable[str]) -> Iterator[tuple[str, Path]]:
    missing = set(names)
    for folder in sys.path:
        for path in sorted(Path(folder).glob("*.dist-info/RECORD")):
            name = normal(path.parent.name.removesuffix(".dist-info").partition("-")[0])
            if name in missing:
                missing.remove(name)  # the first on the path is the one that is imported
                yield name, path


def _loadable(record: Path) -> Iterator[Installed]:
    home, installed = f"{record.parents[1]}{os.sep}", record.stat().st_mtime_ns
    with record.open(newline="") as file:
        for name, digest, size in csv.reader(file):
            if digest.startswith("sha256=") and (name.endswith(".py") or ".so" in name):
                yield Installed(home + name, int(size), digest.partition("=")[2], installed)
