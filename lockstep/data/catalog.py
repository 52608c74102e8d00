"""The catalog of data sets: a file for each, with its versions and their digests.

``data/<name>.yaml`` in the project's package has title, licence and origin, and under ``versions``
what decides the arrays, the newest first. An address is only a place to look: ``package:`` is a
file inside a locked package, the rest are mirrors; a file without any comes from a remote.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from lockstep.ground import yaml_text
from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.errors import DataError, nearest
from lockstep.ground.home import here
from lockstep.program import Kind

SPLITS = ("train", "validation", "test")
NAME = r"[a-z0-9][a-z0-9._-]*"


@dataclass(frozen=True)
class SourceFile:
    """A file as its makers published it, with its digest; ``size`` in bytes.

    An address that ends in ``/`` is a folder that holds the file under its name.
    """

    name: str
    sha256: str
    addresses: tuple[str, ...] = ()
    size: int | None = None


@dataclass(frozen=True)
class Entry:
    """A version of a data set; ``rows`` counts the examples of each split.

    ``labels`` are the names of what a model answers with: classes, labels or columns of numbers;
    ``counts`` has the examples of each label, for people. ``reading`` has the decoder's parameters:
    columns, shares of the splits, and under ``target`` the kind of a target that is no class.
    """

    name: str
    title: str
    licence: str
    origin: str
    decoder: str
    shape: tuple[int, ...]
    labels: tuple[str, ...]
    rows: dict[str, int]
    files: tuple[SourceFile, ...]
    reading: dict[str, Any] = field(default_factory=dict)
    counts: tuple[int, ...] = ()

    @property
    def kind(self) -> Kind:
        """What a target is: a class, unless ``reading.target`` says otherwise."""
        return cast(Kind, self.reading.get("target", {}).get("kind", "class"))

    @property
    def digest(self) -> str:
        """The version: a digest of what the catalog says that decides the arrays."""
        files = [[file.name, file.sha256] for file in self.files]
        parts = [files, self.decoder, self.rows, self.shape, self.labels]
        return digest_of(canonical_json([*parts, *([self.reading] if self.reading else [])]))

    @property
    def reference(self) -> str:
        """The permanent name of this version: ``digits@`` and 8 hex digits."""
        return f"{self.name}@{self.digest[:8]}"


def names(catalog: Path | None = None) -> list[str]:
    """Return the data sets of the catalog, in alphabetical order."""
    return sorted(path.stem for path in (catalog or here().catalog).glob("*.yaml"))


def file_of(reference: str, catalog: Path | None = None) -> Path:
    """Return the catalog's file for a reference. Raises DataError as ``entry`` does."""
    name, known = reference.partition("@")[0], names(catalog)
    if name not in known:
        raise DataError(
            f"data.name: {name!r} is not in the catalog.{nearest(name, known)}"
            f" (it has {', '.join(known)})"
        )
    return (catalog or here().catalog) / f"{name}.yaml"


def versions(name: str, catalog: Path | None = None) -> list[Entry]:
    """Return a data set's versions, the newest first. Raises DataError for an unreadable file."""
    path = file_of(name, catalog)
    return parsed(path, path.read_text("utf-8"))


def parsed(path: Path, text: str) -> list[Entry]:
    """Parse the versions in a catalog file's text. Raises DataError, with its path."""
    try:
        known = yaml_text.load(text)
        return [_entry(path.stem, known, version) for version in known["versions"]]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: is not an entry of the catalog ({reason}); fix it.") from error


def entry(reference: str, catalog: Path | None = None) -> Entry:
    """Return the newest version of a data set, or the one that ``NAME@VERSION`` names.

    Raises DataError for an unknown one, with the nearest name or the existing versions.
    """
    name, at, version = reference.partition("@")
    known = versions(name, catalog)
    if not at:
        return known[0]
    found = [one for one in known if one.digest.startswith(version)]
    if re.fullmatch("[0-9a-f]{8,64}", version) and found:
        return found[0]
    raise DataError(
        f"data.name: {reference}: no such version, expected 8 or more hex digits of one of "
        f"{', '.join(one.reference for one in known)}"
    )


def _entry(name: str, known: dict[str, Any], version: dict[str, Any]) -> Entry:
    fields = {key: value for key, value in known.items() if key != "versions"} | version
    files = tuple(
        SourceFile(file["name"], file["sha256"], tuple(file.get("addresses", ())), file.get("size"))
        for file in fields["files"]
    )
    lists = {key: tuple(fields.get(key, ())) for key in ("shape", "labels", "counts")}
    digest = fields.pop("version", None)  # written by `data add`, for readers of the file
    found = Entry(**(fields | lists | {"name": name, "files": files}))
    if digest not in (None, found.digest):
        raise DataError(
            f"data {name}: version {digest[:8]} was altered in the catalog (its digest is now "
            f"{found.digest[:12]}); put it back as it was, and add what is new as a new version."
        )
    return found
