"""Reading pictures: for data sets that are made of them, and models that look at them."""

import io
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from lockstep.ground.errors import DataError

Picture = Image.Image

MOST_PIXELS = 1 << 24  # of a picture from elsewhere, which is refused before it is decoded
_FEW_PIXELS = 1 << 14
_FEW_BYTES = 1 << 16
_FEW_CHUNKS = 16
# Chunks of a PNG that are read within microseconds; all that is packed, or text, may take longer.
_QUICK = {b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs", b"tIME", b"IDAT"}
# What a file has once. Pillow reads each of many, and copies those before for each of a JPEG's.
_ONCE = {"EXIF": b"Exif\0\0", "an ICC profile": b"iCCP"}
_OFTEN = 64
_DARK = 16  # of 255: what the brightest of 12 bits becomes where 16 are meant
_TOO_DARK = (
    "a picture in 16 bits that is almost black, expected values up to 65,535; scale them, or save "
    "it in 8 bits"
)
# What Pillow raises for files that are not as they should be: these after Image.open, too.
_BROKEN = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error)
_SPREAD = (97, 157, 53)  # of a class's number to red, green and blue: neighbours look different
_TURNED = Image.Transpose
_TURNS = {  # by how a camera was held, as EXIF counts
    2: _TURNED.FLIP_LEFT_RIGHT,
    3: _TURNED.ROTATE_180,
    4: _TURNED.FLIP_TOP_BOTTOM,
    5: _TURNED.TRANSPOSE,
    6: _TURNED.ROTATE_270,
    7: _TURNED.TRANSVERSE,
    8: _TURNED.ROTATE_90,
}
_SIDEWAYS = (_TURNED.TRANSPOSE, _TURNED.ROTATE_270, _TURNED.TRANSVERSE, _TURNED.ROTATE_90)
# Of odd files and of a limit beyond ours; it would stand in a server's log.
warnings.filterwarnings("ignore", module=r"PIL\.")


class _Unfit(Exception):
    """A picture that can be read, but not as what people see; says what was found and expected."""


def drawn(values: NDArray[Any]) -> Picture:
    """Bytes (height, width) or (height, width, 3) as a picture for people."""
    return Image.fromarray(values)


def grey(source: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture as grey values 0 to 255 of shape ``size`` (height, width).

    ``source`` is a path, the bytes of a PNG or JPEG, a PIL image, or a NumPy array or tensor: whole
    numbers 0 to 255 or floats 0 to 1, of shape (height, width), (1, height, width) or (height,
    width, 3). What was photographed with the camera held otherwise is turned upright, another size
    is scaled, what is transparent is laid on white, 16 bits are scaled to 8. Raises DataError for
    what is no picture, or almost black in 16 bits.
    """
    return _taken(source, size, "L")


def colour(source: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture in red, green and blue, 0 to 255, of shape (height, width, 3).

    ``source`` and what is done to it are as for ``grey``; a grey one has three equal colours.
    """
    return _taken(source, size, "RGB")


def _taken(source: Any, size: tuple[int, int], mode: str) -> NDArray[np.uint8]:
    if isinstance(source, str | Path):
        return _read(source, str(source), size, mode=mode)
    if isinstance(source, bytes):  # from who knows where: no format that takes a program to read
        return _decoded(source, "picture", size, mode)
    if isinstance(source, Image.Image):
        try:
            return _scaled(source, size, mode)
        except _Unfit as error:
            raise DataError(f"picture: found {error}.") from error
    try:
        torch = sys.modules.get("torch")  # loaded where a tensor was made, and slow to load
        tensor = torch is not None and isinstance(source, torch.Tensor)
        array = source.detach().cpu().numpy() if tensor else np.asarray(source)
    except (TypeError, ValueError) as error:
        raise DataError(f"picture: found no array of numbers ({error}).") from error
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
        raise DataError(
            f"picture: found an array of shape {array.shape}, expected (height, width), "
            "(1, height, width) or (height, width, 3)."
        )
    if array.dtype.kind not in "uif":
        raise DataError(f"picture: found values of type {array.dtype}, expected numbers.")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise DataError("picture: found floats outside 0 to 1; scale them, or give 0 to 255.")
        array = np.rint(array * 255)
    elif array.min() < 0 or array.max() > 255:
        raise DataError("picture: found whole numbers outside 0 to 255; scale them.")
    return _scaled(Image.fromarray(array.astype(np.uint8)), size, mode)


def is_small(content: bytes) -> bool:
    """Whether a picture is a PNG of so few pixels and so little else that it is read in no time."""
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    if width * height > _FEW_PIXELS or len(content) > _FEW_BYTES:
        return False
    if content[:4] != b"\x89PNG" or content[12:16] != b"IHDR":
        return False
    at = 33  # behind the head; a later one would count instead
    for _ in range(_FEW_CHUNKS):
        name = content[at + 4 : at + 8]
        if name not in _QUICK:
            return name == b"IEND"
        at += 12 + int.from_bytes(content[at : at + 4])
    return False


def stored(content: bytes, name: str, size: tuple[int, int], *, rgb: bool) -> NDArray[np.uint8]:
    """The bytes of a PNG or JPEG as (height, width) or, with ``rgb``, (height, width, 3).

    Turned and scaled to ``size`` as ``grey`` does. Raises DataError, which begins with ``name``,
    for what is no picture.
    """
    return _decoded(content, name, size, "RGB" if rgb else "L")


def mask_png(classes: list[list[int]]) -> bytes:
    """A mask as a PNG: its values are the numbers of the classes, shown in colours."""
    picture = Image.fromarray(np.array(classes, np.uint8))
    picture.putpalette([(number * factor) % 256 for number in range(256) for factor in _SPREAD])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def extent(content: bytes) -> tuple[int, int]:
    """Height and width of a PNG or JPEG, turned upright. Raises DataError as ``stored`` does."""
    with _opened(io.BytesIO(content), "", ("PNG", "JPEG")) as picture:
        width, height = picture.size
        return (width, height) if _turn(picture) in _SIDEWAYS else (height, width)


def mask(content: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The values of the pixels of a PNG, scaled to ``size`` without values between them.

    Those of a picture with a palette are its numbers, those of black and white 0 and 255. Raises
    DataError, which begins with ``: ``, for another file, colours, or transparency.
    """
    with _opened(io.BytesIO(content), "", ("PNG",)) as picture:
        picture.load()
        if picture.mode in ("RGB", "RGBA"):
            bands = np.asarray(picture)
            if (bands == bands[..., :1]).all() and picture.mode == "RGB":
                picture = Image.fromarray(bands[..., 0])
        if picture.mode not in ("1", "L", "P"):
            raise DataError(
                f": found a mask in mode {picture.mode}, expected 8 bits for each pixel"
            )
        if picture.mode == "1":
            picture = picture.convert("L")
        height, width = size
        scaled = picture.resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(scaled, np.uint8)


def _decoded(
    content: bytes, name: str, size: tuple[int, int], mode: str = "L"
) -> NDArray[np.uint8]:
    for what, mark in _ONCE.items():
        if (found := content.count(mark)) > _OFTEN:
            raise DataError(f"{name}: found {what} {found} times, expected once; save it again.")
    return _read(io.BytesIO(content), name, size, formats=("PNG", "JPEG"), mode=mode)


def _read(
    file: Any,
    name: str,
    size: tuple[int, int],
    formats: tuple[str, ...] | None = None,
    mode: str = "L",
) -> NDArray[np.uint8]:
    with _opened(file, name, formats) as picture:
        return _scaled(picture, size, mode)


@contextmanager
def _opened(file: Any, name: str, formats: tuple[str, ...] | None) -> Iterator[Image.Image]:
    """Open a picture; what goes wrong with it inside, too, is a DataError that begins with name."""
    try:
        with Image.open(file, formats=formats) as picture:
            if formats and picture.width * picture.height > MOST_PIXELS:
                raise DataError(
                    f"{name}: found {picture.width} x {picture.height} pixels, expected at most "
                    f"{MOST_PIXELS:,}; give a smaller picture."
                )
            yield picture
    except _Unfit as error:
        raise DataError(f"{name}: found {error}.") from error
    except (*_BROKEN, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)  # whose text shows a Python object
        reason = "no such format" if unknown else error
        raise DataError(f"{name}: no readable picture ({reason}); give a PNG or JPEG.") from error


def _scaled(picture: Image.Image, size: tuple[int, int], mode: str = "L") -> NDArray[np.uint8]:
    height, width = size
    deep = any("16" in str(part[3:]) for part in getattr(picture, "tile", ()))
    turn = _turn(picture)
    if picture.mode[0] in "IF":
        picture, deep = _in_8_bits(picture), False
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode != mode:
        picture = picture.convert(mode)
    if deep and np.asarray(picture).max(initial=0) < _DARK:  # of which Pillow left 8 bits
        raise _Unfit(_TOO_DARK)
    if turn is not None:
        picture = picture.transpose(turn)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8)


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits for each pixel, which convert() would cut off at 255."""
    values, clear = np.asarray(picture), picture.info.get("transparency")
    brightest = values.max(initial=0)
    if picture.mode == "F" or brightest >= 1 << 16 or values.min(initial=0) < 0:
        raise _Unfit("values that are not of 8 or 16 bits, expected these; scale them")
    if 0 < brightest < _DARK << 8:
        raise _Unfit(_TOO_DARK)
    shades = (values >> 8).astype(np.uint8)
    if clear is not None:
        shades[values == clear] = 255
    return Image.fromarray(shades)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """Return the transpose that turns a picture upright, from its EXIF orientation alone."""
    picture.load()  # errors in the picture itself are raised here
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except _BROKEN:
        return None
