"""The archive: one byte string for the same files, and nothing written of a harmful one."""

import gzip
import io
import os
import random
import tarfile
from pathlib import Path

import pytest

from lockstep.bundles import archive, manifest
from lockstep.bundles.archive import content_of, packed, unpack
from lockstep.bundles.opening import opened
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import BundleError

FILES = {"weights.safetensors": bytes(range(256)) * 600, "code/a.py": b"a = 1\n", "empty": b""}


def tar(*members: tarfile.TarInfo, content: bytes = b"", form: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive as others may send it, with the same content in each plain file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", format=form) as made:
        for member in members:
            made.addfile(member, io.BytesIO(content))
    return file.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in more.items():
        setattr(made, key, value)
    return made


def test_the_same_files_are_the_same_bytes_on_every_machine() -> None:
    backwards = packed(dict(reversed(FILES.items())))
    wanted = "2883c4c0cfc2403a6ac19030aed7c7d2b73a7f7066145f9d5e176539aa8aa740"
    assert (packed(FILES), digest_of(backwards)) == (backwards, wanted)


def test_any_tar_reads_what_was_packed(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(FILES)), mode="r:gz") as file:
        found = {one.name: (file.extractfile(one) or io.BytesIO()).read() for one in file}
        facts = {(one.mtime, one.uid, one.uname, one.mode) for one in file.getmembers()}
    assert (found, facts) == (FILES, {(0, 0, "", 0o644)})


def test_what_was_packed_by_another_tar_is_unpacked_as_well(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tar(member("x/y", size=3), content=b"abc"))
    unpack(tmp_path / "a", tmp_path / "to")
    assert (tmp_path / "to" / "x" / "y").read_bytes() == b"abc"


def test_one_file_of_it_is_read_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(packed(FILES))
    assert {name: content_of(path, name) for name in FILES} == FILES
    with pytest.raises(BundleError, match=f"^{path}: other not found in it, expected a bundle"):
        content_of(path, "other")
    path.write_bytes(packed(FILES)[:1000])
    with pytest.raises(BundleError, match=f"^{path}: not readable as a bundle"):
        content_of(path, "weights.safetensors")


HARMFUL = {
    "a link": [member("in", tarfile.SYMTYPE, linkname="/etc/passwd")],
    "a hard link": [member("in", tarfile.LNKTYPE, linkname="../other")],
    "a device": [member("in", tarfile.CHRTYPE)],
    "a pipe": [member("in", tarfile.FIFOTYPE)],
    "a folder that is a link's way": [member("in", tarfile.DIRTYPE)],
    "an absolute path": [member("/in")],
    "a path upwards": [member("a/../../in")],
    "another system's path": [member("..\\in")],
    "a name twice": [member("in"), member("in")],
    "a file as folder": [member("in"), member("in/other")],
    "a folder as file": [member("in/other"), member("in")],
    "too many": [member(f"in{number}") for number in range(archive.MEMBERS + 1)],
}


@pytest.mark.parametrize("members", HARMFUL.values(), ids=HARMFUL.keys())
def test_what_is_harmful_is_refused_before_anything_is_written(
    members: list[tarfile.TarInfo], tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(tar(member("first", size=1), *members, content=b"x"))
    with pytest.raises(BundleError, match="nothing was unpacked"):
        unpack(tmp_path / "a", tmp_path / "to")
    assert [*tmp_path.iterdir()] == [tmp_path / "a"]


def test_what_claims_to_be_too_large_is_refused_by_its_head_alone(tmp_path: Path) -> None:
    head = member("a", size=archive.LARGEST + 1).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a").write_bytes(gzip.compress(head, mtime=0))
    with pytest.raises(BundleError, match="'a' is too large"):
        unpack(tmp_path / "a", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_many_that_are_too_large_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "TOTAL", 2500)
    (tmp_path / "a").write_bytes(packed({"a": bytes(1000), "b": bytes(1000)}))
    unpack(tmp_path / "a", tmp_path / "to")
    (tmp_path / "a").write_bytes(packed({"a": bytes(1000), "b": bytes(1000), "c": bytes(1000)}))
    with pytest.raises(BundleError, match="'c' is too large"):
        unpack(tmp_path / "a", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_head_of_a_head_is_not_read_into_memory(tmp_path: Path) -> None:
    long = member("x" * 300)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        (tmp_path / "a").write_bytes(tar(long, form=form))
        with pytest.raises(BundleError, match="expected a plain file"):
            unpack(tmp_path / "a", tmp_path / "to")


@pytest.mark.parametrize(
    "content", [b"", b"no archive", gzip.compress(b"x" * 512, mtime=0), packed(FILES)[:-70_000]]
)
def test_what_is_no_whole_archive_is_reported_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(BundleError) as told:
        unpack(tmp_path / "a", tmp_path / "to")
    assert (str(told.value).startswith(f"{tmp_path / 'a'}: "), "\n" in str(told.value)) == (
        True,
        False,
    )


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    files = {"weights.safetensors": os.urandom(3000), "code/a.py": b"a = 1\n"}
    whole = packed(files | {manifest.NAME: manifest.make(files, {"model": "digits"})})
    chance, path, refused = random.Random(1), tmp_path / "a", 0
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            with opened(path) as folder:
                assert {name: (folder / name).read_bytes() for name in files} == files
        except BundleError:
            refused += 1
    assert refused > 200
