"""Names for bytes: the one JSON text of a value, SHA-256, and the keys of random streams."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """The one byte string that stands for a JSON value: sorted keys, no spaces, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def readable_json(value: Any) -> bytes:
    """The same value for people: sorted keys, two spaces, a line end; also one byte string only."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def digest_of(content: bytes | Path) -> str:
    """SHA-256 of some bytes, or of a file's content, as 64 hex digits."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(content).hexdigest()


def key_of(seed: int, stream: str, *numbers: int) -> int:
    """A 63-bit key for one stream of random numbers at one place.

    All that is random comes from these. The same arguments give the same key on every machine;
    it takes about 1 µs.
    """
    packed = struct.pack(f"<q{len(numbers)}q", seed, *numbers)
    digest = hashlib.blake2b(packed, digest_size=8, person=stream.encode()).digest()
    return int.from_bytes(digest, "little") >> 1
