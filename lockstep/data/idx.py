"""IDX files (http://yann.lecun.com/exdb/mnist): a header with the shape, then bytes."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lockstep.ground.errors import DataError


def idx_array(path: Path, *, packed: bool = True) -> NDArray[np.uint8]:
    """Read the array in a file, ``packed`` by gzip or not. Raises DataError for another format."""
    content = unpacked(path) if packed else path.read_bytes()
    axes = content[3] if len(content) >= 4 else 0
    if content[:3] != b"\0\0\x08" or axes == 0 or len(content) < 4 + 4 * axes:
        raise DataError(
            f"{path}: starts with {content[:4].hex()}, which is not an IDX file of bytes."
        )
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if values.size != int(np.prod(shape)):
        raise DataError(
            f"{path}: has {values.size} values, expected the shape of its header, {shape.tolist()}."
        )
    return values.reshape(shape)


def unpacked(path: Path) -> bytes:
    """Return the content of a gzip file. Raises DataError for a truncated or other file."""
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: is truncated or not a gzip file ({error}).") from error
