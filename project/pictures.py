"""Reading pictures: for data sets that are made of them, and models that look at them."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from project.errors import DataError

Picture = Image.Image

MOST_PIXELS = 1 << 24  # of a picture from elsewhere, which is refused before it is decoded
_FEW_PIXELS = 1 << 14
# Of a limit beyond ours; it would stand in a server's log.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def drawn(values: NDArray[Any]) -> Picture:
    """Bytes (height, width) or (height, width, 3) as a picture for people."""
    return Image.fromarray(values)


def grey(source: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture as grey values 0 to 255 of shape ``size`` (height, width).

    ``source`` is a path, the bytes of a PNG or JPEG, a PIL image, or a NumPy array or tensor: whole
    numbers 0 to 255 or floats 0 to 1, of shape (height, width), (1, height, width) or (height,
    width, 3). Another size is scaled. Raises DataError for what is no picture.
    """
    if isinstance(source, str | Path):
        return _read(source, str(source), size)
    if isinstance(source, bytes):  # from who knows where: no format that takes a program to read
        return _read(io.BytesIO(source), "picture", size, formats=("PNG", "JPEG"))
    if isinstance(source, Image.Image):
        return _scaled(source, size)
    try:
        tensor = isinstance(source, torch.Tensor)
        array = source.detach().cpu().numpy() if tensor else np.asarray(source)
    except (TypeError, ValueError) as error:
        raise DataError(f"picture: found no array of numbers ({error}).") from error
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
        raise DataError(
            f"picture: found an array of shape {array.shape}, wanted (height, width), "
            "(1, height, width) or (height, width, 3)."
        )
    if array.dtype.kind not in "uif":
        raise DataError(f"picture: found values of type {array.dtype}, wanted numbers.")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise DataError("picture: found floats outside 0 to 1; scale them, or give 0 to 255.")
        array = np.rint(array * 255)
    elif array.min() < 0 or array.max() > 255:
        raise DataError("picture: found whole numbers outside 0 to 255; scale them.")
    return _scaled(Image.fromarray(array.astype(np.uint8)), size)


def is_small(content: bytes) -> bool:
    """Whether a picture is a PNG of so few pixels that reading it takes microseconds."""
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    few = width * height <= _FEW_PIXELS and len(content) <= 1 << 16
    # A later head would count instead of the first.
    alone = content[12:16] == b"IHDR" and content.count(b"IHDR") == 1
    return content[:4] == b"\x89PNG" and few and alone


def stored(content: bytes, name: str, size: tuple[int, int], *, rgb: bool) -> NDArray[np.uint8]:
    """The bytes of a PNG or JPEG as (height, width) or, with ``rgb``, (height, width, 3).

    Scaled to ``size``. Raises DataError, which begins with ``name``, for what is no picture.
    """
    mode = "RGB" if rgb else "L"
    return _read(io.BytesIO(content), name, size, formats=("PNG", "JPEG"), mode=mode)


def _read(
    file: Any,
    name: str,
    size: tuple[int, int],
    formats: tuple[str, ...] | None = None,
    mode: str = "L",
) -> NDArray[np.uint8]:
    try:
        with Image.open(file, formats=formats) as picture:
            if formats and picture.width * picture.height > MOST_PIXELS:
                raise DataError(
                    f"{name}: found {picture.width} x {picture.height} pixels, wanted at most "
                    f"{MOST_PIXELS:,}; give a smaller picture."
                )
            return _scaled(picture, size, mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)  # which tells of an object of Python
        reason = "no such format" if unknown else error
        raise DataError(f"{name}: no readable picture ({reason}); give a PNG or JPEG.") from error


def _scaled(picture: Image.Image, size: tuple[int, int], mode: str = "L") -> NDArray[np.uint8]:
    height, width = size
    if picture.mode.startswith("I"):  # 16 bits for each pixel, which convert() would cut off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8)
