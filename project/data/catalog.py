"""What data sets there are: names, digests, licences, shapes and where their files may be had."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from project.errors import DataError
from project.files import canonical_json, digest_of, nearest

CATALOG = Path(__file__).with_name("catalog.yaml")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SourceFile:
    """A file as its makers published it, known by its digest.

    An address that ends in ``/`` is a folder that holds the file under its name.
    """

    name: str
    sha256: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One data set of the catalog; ``rows`` counts the examples of each split.

    ``reading`` is what the decoder needs to know besides: columns, shares of the splits.
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

    @property
    def digest(self) -> str:
        """What decides the decoded arrays, as far as the catalog knows it."""
        files = [[file.name, file.sha256] for file in self.files]
        parts = [files, self.decoder, self.rows, self.shape, self.labels]
        return digest_of(canonical_json([*parts, *([self.reading] if self.reading else [])]))


def entry(name: str, catalog: Path = CATALOG) -> Entry:
    """The data set of that name. Raises DataError for an unknown one, with the nearest name."""
    known = yaml.safe_load(catalog.read_text())
    if name not in known:
        raise DataError(
            f"data.name: {name!r} is not in the catalog.{nearest(name, known)}"
            f" ({catalog.name} has {', '.join(sorted(known))})"
        )
    return _entry(name, known[name])


def _entry(name: str, fields: dict[str, Any]) -> Entry:
    files = tuple(
        SourceFile(file["name"], file["sha256"], tuple(file.get("addresses", ())))
        for file in fields["files"]
    )
    lists = {"shape": tuple(fields["shape"]), "labels": tuple(fields["labels"])}
    return Entry(**(fields | lists | {"name": name, "files": files}))
