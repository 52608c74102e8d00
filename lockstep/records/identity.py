"""The identity of a run: a digest of each part that decides its bits, and one over all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

from lockstep.ground.digests import canonical_json, digest_of
from lockstep.records.reading import Altered, json_object, refuse_newer, shaped

SCHEMA = 3
T = TypeVar("T")


class Data(TypedDict):
    """The settings of the data, as far as they are read here."""

    name: str


class Training(TypedDict):
    """The settings of training, as far as they are read here."""

    epochs: int
    evaluation_batch: int
    profile: str


class Start(TypedDict):
    """The settings of the weights that a run starts from, as far as they are read here."""

    sha256: str


class Deciding(TypedDict):
    """The settings that decide bits; those of ``model`` are its own."""

    data: Data
    model: dict[str, Any]
    training: Training
    start: NotRequired[Start]
    name: str
    seed: int


class Profile(TypedDict):
    """What computes; the CPU's model where the profile is native, the GPU's on a GPU."""

    name: str
    device: str
    cpu: NotRequired[str]
    gpu: NotRequired[str]


Packages = dict[str, list[str]]  # name to version and digest, as ``Parts`` has them


class Parts(TypedDict):
    """The content of ``parts.json``: what stands behind each digest of the identity.

    ``source`` is path to digest, ``data`` a digest, ``packages`` name to version and the wheel
    it came from. Before schema 3 that was a digest of the lock's hashes. Without a schema it is 1,
    which had no Python either.
    """

    schema: NotRequired[int]
    experiment: Deciding
    source: dict[str, str]
    data: str
    packages: Packages
    python: NotRequired[str]
    profile: Profile


class Identity(TypedDict):
    """The content of ``identity.json``; ``digest`` is over the digests of all parts."""

    digest: str
    schema: NotRequired[str]
    experiment: str
    source: str
    data: str
    packages: str
    python: NotRequired[str]
    profile: str


def identity(parts: Mapping[str, Any]) -> Identity:
    """Return the identity of what decides the bits."""
    digests = {
        name: part if isinstance(part, str) else digest_of(canonical_json(part))
        for name, part in parts.items()
    }
    found: Any = {"digest": digest_of(canonical_json(digests))} | digests
    named: Identity = found
    return named


def read(path: Path) -> Identity:
    """Return the identity that a file holds.

    Raises RunError if it is missing, holds none or its digest is not that of its parts.
    """
    return checked(path, Identity)


def checked(path: Path, kind: type[T]) -> T:
    """Return the identity that a file holds, of the parts that ``kind`` has. Raises as ``read``."""
    content = _content(path)
    found = shaped(path, content, kind)
    digests = {name: digest for name, digest in content.items() if name != "digest"}
    try:
        same = content["digest"] == digest_of(canonical_json(digests))
    except ValueError as error:
        raise Altered(path, f"holds what no identity holds ({error})") from error
    if not same:
        raise Altered(path, "its digest is not that of its parts")
    return found


def read_parts(path: Path) -> Parts:
    """Return the parts that a file holds.

    Raises NewerSchema for a schema that is not known here, RunError if the file is missing or holds
    none.
    """
    content = _content(path)
    refuse_newer(path, content.get("schema", 1), SCHEMA)
    return shaped(path, content, Parts)


def _content(path: Path) -> dict[str, Any]:
    if (content := json_object(path)) is None:
        raise Altered(path, "is missing")
    return content
