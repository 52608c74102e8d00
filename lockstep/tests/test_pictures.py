"""Pictures as people have them: a path, an image, an array or a tensor, all read alike."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lockstep.ground.errors import DataError
from lockstep.ground.pictures import grey, is_small, stored


def encoded(kind: str, **more: Any) -> bytes:
    """The bytes of a file with the picture."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, **more)
    return file.getvalue()


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """A part of a PNG."""
    checked = zlib.crc32(name + content).to_bytes(4)
    return len(content).to_bytes(4) + name + content + checked


def behind_the_pixels(*chunks: bytes) -> bytes:
    """The PNG of the picture with parts before its end."""
    return PNG[:-12] + b"".join(chunks) + PNG[-12:]


PIXELS = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
PNG, GIF = (encoded(kind) for kind in ("PNG", "GIF"))
COLOURS = np.random.default_rng(1).integers(0, 256, (28, 28, 3), np.uint8)


def test_every_way_to_give_a_picture_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    sources = {
        "path": path,
        "text": str(path),
        "content": path.read_bytes(),
        "image": Image.fromarray(PIXELS),
        "bytes": PIXELS,
        "whole numbers": PIXELS.astype(np.int64),
        "floats": PIXELS / 255,
        "small floats": (PIXELS / 255).astype(np.float32),
        "with a channel": PIXELS[None],
        "of grey colours": np.stack([PIXELS] * 3, axis=2),
        "tensor": torch.from_numpy(PIXELS),
        "tensor with a channel": torch.from_numpy(PIXELS)[None].float() / 255,
        "tensor with a gradient": (torch.from_numpy(PIXELS) / 255).requires_grad_(),
        "lists": PIXELS.tolist(),
    }
    found = {name: grey(source, (28, 28)) for name, source in sources.items()}
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == dict.fromkeys(
        sources, (np.dtype(np.uint8), PIXELS.tolist())
    )


def test_colours_become_the_grey_that_pillow_makes_of_them(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS)
    image.save(tmp_path / "colours.png")
    wanted = np.asarray(image.convert("L")).tolist()
    sources = (COLOURS, image, image.convert("RGBA"), tmp_path / "colours.png")
    assert [grey(source, (28, 28)).tolist() for source in sources] == [wanted] * 4


def test_16_bits_for_a_pixel_keep_their_shades(tmp_path: Path) -> None:
    fine = PIXELS.astype(np.uint16) * 256 + 77
    Image.fromarray(fine).save(tmp_path / "fine.png")
    sources = (tmp_path / "fine.png", Image.fromarray(fine))
    assert [grey(source, (28, 28)).tolist() for source in sources] == [PIXELS.tolist()] * 2


def test_what_is_transparent_is_laid_on_white() -> None:
    """Black strokes on nothing: with an alpha channel, and with one clear entry of a palette."""
    black = np.zeros((4, 4, 4), np.uint8)
    black[1, :, 3] = 255
    palette = Image.fromarray((black[..., 3] == 0).astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 0, 0, 0])
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=1)
    expected = np.where(black[..., 3] > 0, 0, 255).tolist()
    alpha = Image.fromarray(black)
    sources = (alpha, alpha.convert("LA"), file.getvalue())
    assert [grey(source, (4, 4)).tolist() for source in sources] == [expected] * 3


def test_16_bits_that_would_be_almost_black_are_refused() -> None:
    dark = np.arange(16, dtype=np.uint16).reshape(4, 4)
    for values in (dark * 10, dark * 256):
        with pytest.raises(DataError, match="16 bits that is almost black, expected values up to"):
            grey(Image.fromarray(values), (4, 4))
    assert grey(Image.fromarray(dark * 0), (4, 4)).max() == 0


def test_floats_become_the_nearest_shade() -> None:
    assert grey(np.array([[0.0, 0.998, 1.0]]), (1, 3)).tolist() == [[0, 254, 255]]
    assert grey(np.array([[0.001, 0.999, 0.003]]), (1, 3)).tolist() == [[0, 255, 1]]


def test_another_size_is_scaled_to_height_and_width() -> None:
    bars = np.repeat([[0], [255]], 50, axis=0).repeat(60, axis=1)
    found = grey(bars, (4, 6))
    assert (found.shape, found[0].tolist(), found[-1].tolist()) == ((4, 6), [0] * 6, [255] * 6)


HELD: dict[int, Callable[[Any], Any]] = {  # what is seen of what a camera wrote, by its number
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("number", HELD)
def test_what_a_camera_wrote_that_was_held_otherwise_is_upright(
    tmp_path: Path, number: int
) -> None:
    path, size, facts = tmp_path / "photo.png", (10, 14), Image.Exif()
    facts[0x0112] = number
    Image.fromarray(PIXELS[:20]).save(path, exif=facts)
    wanted = grey(HELD[number](PIXELS[:20]), size).tolist()
    with Image.open(path) as file:
        found = [grey(source, size).tolist() for source in (path, path.read_bytes(), file)]
    assert [*found, stored(path.read_bytes(), "", size, rgb=False).tolist()] == [wanted] * 4
    picture = Image.fromarray(PIXELS[:20])
    picture.getexif()[0x0112] = number
    assert grey(picture, size).tolist() == wanted


@pytest.mark.filterwarnings("ignore::UserWarning")  # as lockstep.ground.pictures has it
@pytest.mark.parametrize(
    "facts",
    [b"", b"MM", b"MM\0*", b"MM\0*\0\0\0\x08\0\x09\x01\x12", b"\xff" * 40, b"Exif\0\0II*\0\xff"],
)
def test_a_picture_whose_camera_tells_nonsense_is_read_as_it_lies(facts: bytes) -> None:
    sources = behind_the_pixels(chunk(b"eXIf", facts)), encoded("PNG", exif=facts)
    assert [grey(source, (28, 28)).tolist() for source in sources] == [PIXELS.tolist()] * 2


@pytest.mark.parametrize("content", [b"", b"\0", b"a", b"a\0"])
def test_a_part_behind_the_pixels_that_is_no_such_part_is_refused(content: bytes) -> None:
    """Pillow catches what its own mistakes raise when it opens a file, not when it reads on."""
    with pytest.raises(DataError, match=r"^picture: no readable picture \("):
        grey(behind_the_pixels(chunk(b"iCCP", content)), (28, 28))


def test_what_a_file_has_once_is_not_read_a_thousand_times() -> None:
    jpeg, facts = encoded("JPEG"), b"\xff\xe1\0\x08Exif\0\0"
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(9)))

    def files(count: int) -> tuple[bytes, bytes]:
        return jpeg[:2] + facts * count + jpeg[2:], behind_the_pixels(profile * count)

    wanted = [grey(jpeg, (28, 28)).tolist(), PIXELS.tolist()]
    assert [grey(file, (28, 28)).tolist() for file in files(2)] == wanted
    for file, what in zip(files(1000), ("EXIF", "an ICC profile"), strict=True):
        with pytest.raises(DataError) as error:
            grey(file, (28, 28))
        assert str(error.value) == (
            f"picture: found {what} 1000 times, expected once; save it again."
        )


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("no/such.png", "no/such.png: no readable picture ("),
        (__file__, "test_pictures.py: no readable picture ("),
        (Path(__file__).parent, "tests: no readable picture ("),
        (b"", "picture: no readable picture (no such format); give a PNG or JPEG."),
        (PNG[:100], "picture: no readable picture ("),
        (GIF, "picture: no readable picture (no such format); give a PNG or JPEG."),
        (None, "found an array of shape (), expected (height, width)"),
        (np.zeros((0, 3)), "found an array of shape (0, 3)"),
        (np.zeros((28, 28, 4)), "found an array of shape (28, 28, 4)"),
        (np.zeros((2, 28, 28)), "found an array of shape (2, 28, 28)"),
        (PIXELS / 1.0, "found floats outside 0 to 1; scale them"),
        (PIXELS / 255 * np.nan, "found floats outside 0 to 1"),
        (PIXELS - 300.0, "found floats outside 0 to 1"),
        (PIXELS.astype(np.int64) + 1000, "found whole numbers outside 0 to 255"),
        (PIXELS.astype(np.int64) - 300, "found whole numbers outside 0 to 255"),
        (PIXELS > 9, "found values of type bool, expected numbers"),
        ([["a", "b"]], "found values of type <U1, expected numbers"),
        ([[1, 2], [3]], "found no array of numbers"),
        (torch.zeros(28, 28, dtype=torch.bfloat16), "found no array of numbers"),
    ],
)
def test_what_is_no_picture_is_refused(source: Any, told: str) -> None:
    with pytest.raises(DataError) as error:
        grey(source, (28, 28))
    assert told in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_picture_that_was_cut_or_altered_anywhere_is_read_or_refused(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "picture"
    Image.fromarray(PIXELS[:8, :8]).save(path, kind)
    content = path.read_bytes()
    cuts = [content[:length] for length in range(len(content))]
    altered = [
        content[:at] + bytes([value]) + content[at + 1 :]
        for at in range(100)
        for value in (0, content[at] ^ 0xFF)
    ]
    refused = 0
    for damaged in (*cuts, *altered):
        path.write_bytes(damaged)
        try:
            grey(path, (8, 8))
        except DataError:
            refused += 1
    assert refused > len(content) / 2


def test_a_picture_is_small_by_its_only_head() -> None:
    """Pillow follows the last of several heads, which may promise millions of pixels."""
    small = encoded("PNG")
    part = b"IHDR" + (4000).to_bytes(4) * 2 + bytes((8, 0, 0, 0, 0))
    head = (13).to_bytes(4) + part + zlib.crc32(part).to_bytes(4)
    two = small[:33] + head + small[33:]
    with Image.open(io.BytesIO(two)) as picture:
        assert picture.size == (4000, 4000)
    hidden = small[:8] + (8).to_bytes(4) + b"tEXt" + bytes(8) + bytes(4) + small[8:]
    found = [is_small(file) for file in (small, two, hidden, encoded("JPEG"), b"")]
    assert found == [True, False, False, False, False]


def test_a_picture_is_not_small_that_holds_what_may_take_long_to_read() -> None:
    packed = b"a\0\0" + zlib.compress(bytes(1 << 20))
    slow = [behind_the_pixels(chunk(name, packed)) for name in (b"zTXt", b"iTXt", b"iCCP", b"eXIf")]
    early = PNG[:33] + chunk(b"zTXt", packed) + PNG[33:]
    many = behind_the_pixels(*[chunk(b"IDAT")] * 20)
    cut = PNG[:-12]
    assert [is_small(file) for file in (*slow, early, many, cut)] == [False] * 7
    quick = behind_the_pixels(chunk(b"tIME", bytes(7)), chunk(b"IDAT"))
    assert [is_small(quick), grey(quick, (28, 28)).tolist()] == [True, PIXELS.tolist()]
