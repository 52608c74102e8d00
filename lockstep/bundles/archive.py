"""``model.tar.gz``: the same files give the same bytes, and what is read is not trusted."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from lockstep.ground.errors import BundleError
from lockstep.ground.names import unsafe

MEMBERS, LARGEST, TOTAL = 1_000, 8 << 30, 16 << 30  # of an archive that is read, bytes
# Weights hardly shrink. What unpacks to much more than this is there to fill a disk.
_GROWTH, _ANYWAY = 10, 16 << 20  # times its own size, and bytes
_BLOCK = 512  # what a tar is made of
_STORED = 65_535  # bytes that a stored block of deflate holds at most
_CHUNK = 1 << 20


def packed(files: Mapping[str, bytes]) -> bytes:
    """A tar.gz of the files, sorted, without times or owners.

    Stored, not deflated: what deflating gives depends on the zlib at hand, and weights hardly
    shrink. Raises BundleError for a name that a plain tar cannot hold.
    """
    pieces = []
    for name, content in sorted(files.items()):
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        try:
            pieces.append(member.tobuf(tarfile.USTAR_FORMAT))
        except ValueError as error:
            raise BundleError(f"{name}: cannot be a name in a bundle ({error}).") from error
        pieces += [content, bytes(-len(content) % _BLOCK)]
    return _stored(b"".join([*pieces, bytes(2 * _BLOCK)]))


def _stored(content: bytes) -> bytes:
    """The content as gzip (RFC 1952) in stored blocks (RFC 1951), with no time and no name."""
    pieces = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff"]
    for start in range(0, len(content), _STORED):
        block = content[start : start + _STORED]
        last = start + _STORED >= len(content)
        size = len(block)
        head = bytes([last]) + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
        pieces += [head, block]
    ends = (zlib.crc32(content), len(content) & 0xFFFFFFFF)
    return b"".join([*pieces, *(number.to_bytes(4, "little") for number in ends)])


def unpack(path: Path, folder: Path) -> None:
    """Write an archive's files below a folder, after all of it was checked.

    Raises BundleError, with nothing written, for what is not an archive, and for one that has
    links, devices, names that lead elsewhere or occur twice, or too many or too large files.
    """
    with _readable(path), path.open("rb") as file:
        for _ in _members(path, file):
            pass
        file.seek(0)
        for name, size, content in _members(path, file):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as written:
                while size:
                    chunk = content.read(min(size, _CHUNK))
                    written.write(chunk)
                    size -= len(chunk)


def content_of(path: Path, name: str) -> bytes:
    """The content of one of an archive's files. Raises BundleError if it has none of that name."""
    with _readable(path), path.open("rb") as file:
        for member, size, content in _members(path, file):
            if member == name:
                return _exactly(path, content, size)
    raise BundleError(f"{path}: {name} not found in it, expected a bundle.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{path}: not readable as a bundle ({reason}).") from error


def _members(path: Path, file: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and content of each file; content that is not read is skipped.

    The headers are read here, as tarfile would keep extended ones in memory, however large.
    """
    seen: set[str] = set()
    total, most = 0, min(TOTAL, _GROWTH * path.stat().st_size + _ANYWAY)
    with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
        tar = cast(IO[bytes], unzipped)
        while any(block := _exactly(path, tar, _BLOCK)):
            try:
                head = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            except (tarfile.HeaderError, UnicodeError) as error:
                raise BundleError(f"{path}: not readable as a bundle ({error}).") from error
            total += head.size
            _refuse(path, head, seen, total, most)
            seen.add(head.name)
            start = tar.tell()
            yield head.name, head.size, tar
            rest = start + head.size + -head.size % _BLOCK - tar.tell()
            while rest:
                rest -= len(_exactly(path, tar, min(rest, _CHUNK)))


def _exactly(path: Path, file: IO[bytes], size: int) -> bytes:
    """So many bytes, as gzip gives fewer at the end of a block. Raises BundleError at the end."""
    content = file.read(size)
    if len(content) != size:
        raise BundleError(f"{path}: truncated; restore a complete copy.")
    return content


def _refuse(path: Path, head: tarfile.TarInfo, seen: set[str], total: int, most: int) -> None:
    parts = head.name.split("/")
    if head.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        problem = "is a link, a folder or a device, expected a plain file"
    elif why := unsafe(head.name):
        problem = why
    elif any("/".join(parts[:n]) in seen for n in range(1, len(parts) + 1)) or any(
        other.startswith(f"{head.name}/") for other in seen
    ):
        problem = "occurs twice, or is a folder as well"
    elif len(seen) >= MEMBERS:
        problem = f"is one of more than {MEMBERS:,} files"
    elif not 0 <= head.size <= LARGEST or total > most:
        problem = f"is too large ({head.size:,} bytes; {LARGEST:,} at most, {most:,} in all)"
    else:
        return
    raise BundleError(f"{path}: {head.name[:100]!r} {problem}; nothing was unpacked.")
