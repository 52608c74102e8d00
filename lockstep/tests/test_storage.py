"""Storage: a folder and a real bucket behind the same five calls; objects are put once."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.ground.digests import digest_of
from lockstep.ground.errors import StorageError
from lockstep.ground.storage import PART, Bucket, Storage, open_storage
from lockstep.tests.conftest import ROOT
from lockstep.tests.services import S3

pytestmark = pytest.mark.slow  # an S3 server

Open = Callable[[], Storage]


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a prefix in a fresh bucket, that boto3 finds by its variables."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.bucket()}/some/prefix"


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "bucket":
        return open_storage(request.getfixturevalue("bucket"))
    (tmp_path / "shared").mkdir()
    return open_storage(str(tmp_path / "shared"))


def written(path: Path, content: bytes) -> tuple[Path, str]:
    path.write_bytes(content)
    return path, digest_of(content)


def nothing(_: int) -> None:
    """Looks on in silence."""


def test_what_was_put_is_listed_and_comes_back(storage: Storage, tmp_path: Path) -> None:
    moved: list[int] = []
    for number in range(3):
        content = bytes([number]) * (number * 1000)
        path, digest = written(tmp_path / "file", content)
        assert storage.put(f"a{number}/file", path, digest, moved.append)
        storage.get(f"a{number}/file", tmp_path / f"back{number}", nothing)
        assert (tmp_path / f"back{number}").read_bytes() == content
    assert storage.list() == {"a0/file": 0, "a1/file": 1000, "a2/file": 2000}
    assert storage.list("a1") == {"a1/file": 1000}
    assert [storage.size(key) for key in ("a2/file", "a3/file", "a2")] == [2000, None, None]
    assert sum(moved) == 3000


def test_an_object_is_put_once_and_then_stays_as_it_is(storage: Storage, tmp_path: Path) -> None:
    first, second = (written(tmp_path / text, text.encode()) for text in ("first", "second"))
    assert storage.put("key", *first, nothing)
    assert not storage.put("key", *second, nothing)
    storage.get("key", tmp_path / "back", nothing)
    assert (tmp_path / "back").read_bytes() == b"first"


@pytest.mark.parametrize("size", [1000, PART + 1])
def test_a_file_of_another_digest_is_refused_and_not_stored(
    storage: Storage, tmp_path: Path, size: int
) -> None:
    path, _ = written(tmp_path / "file", bytes(size))
    with pytest.raises(StorageError, match=rf"^{path}: is altered \(sha256 .*nothing was stored"):
        storage.put("key", path, "0" * 64, nothing)
    assert (storage.size("key"), storage.list()) == (None, {})


def test_what_was_brought_in_part_is_gone_on_from(storage: Storage, tmp_path: Path) -> None:
    path, digest = written(tmp_path / "file", os.urandom(5000))
    storage.put("key", path, digest, nothing)
    back, moved = tmp_path / "back", list[int]()
    back.write_bytes(path.read_bytes()[:4000])
    storage.get("key", back, moved.append)
    assert (back.read_bytes(), sum(moved)) == (path.read_bytes(), 1000)
    storage.get("key", back, moved.append)
    assert (back.read_bytes(), sum(moved)) == (path.read_bytes(), 1000)


def test_the_server_itself_refuses_what_was_altered_on_the_way(bucket: str, tmp_path: Path) -> None:
    """As by a bad cable: the bytes are changed after boto3 was given their checksum."""
    storage = open_storage(bucket)
    assert isinstance(storage, Bucket)

    def alter(request: "object", **_: object) -> None:
        request.body = bytes(1000)  # type: ignore[attr-defined]

    storage._client.meta.events.register("before-send.s3.PutObject", alter)
    path, digest = written(tmp_path / "file", bytes(999) + b"1")
    with pytest.raises(StorageError, match="BadDigest"):
        storage.put("key", path, digest, nothing)
    assert storage.size("key") is None


def test_a_large_file_whose_sender_was_killed_is_gone_on_from_by_the_part(
    bucket: str, tmp_path: Path
) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from lockstep.ground.storage import open_storage
def moved(count):
    os.kill(os.getpid(), signal.SIGKILL)
open_storage(sys.argv[1]).put("key", Path(sys.argv[2]), sys.argv[3], moved)
"""
    path, digest = written(tmp_path / "file", os.urandom(5 * PART + 7))
    words = [sys.executable, "-c", script, bucket, str(path), digest]
    assert subprocess.run(words, cwd=ROOT).returncode == -signal.SIGKILL
    storage, sent = open_storage(bucket), list[object]()
    assert isinstance(storage, Bucket)
    assert storage.size("key") is None
    storage._client.meta.events.register("before-send.s3.UploadPart", lambda **_: sent.append(1))
    assert storage.put("key", path, digest, nothing)
    storage.get("key", tmp_path / "back", nothing)
    assert digest_of(tmp_path / "back") == digest
    assert 1 <= len(sent) <= 5  # of 6 parts
    assert "Uploads" not in storage._client.list_multipart_uploads(Bucket=storage.bucket)


def told(action: Callable[[], object]) -> str:
    with pytest.raises(StorageError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_keeps_us_out_is_told_in_a_line(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "NoSuchBucket" in told(lambda: open_storage("s3://nothing").check())
    assert told(lambda: open_storage("s3://nothing").check()).endswith("correct its name.")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "SignatureDoesNotMatch" in told(lambda: open_storage(bucket).check())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "InvalidAccessKeyId" in told(lambda: open_storage(bucket).check())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "no server answers there" in told(lambda: open_storage(bucket).check())
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert "found no credentials" in told(lambda: open_storage(bucket).check())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert "nonsense" in told(lambda: open_storage(bucket).check())
    monkeypatch.delenv("AWS_ENDPOINT_URL")


def test_what_is_no_storage_is_told_in_a_line(tmp_path: Path) -> None:
    assert told(lambda: open_storage("gs://bucket")).startswith("gs://bucket: no such storage")
    assert told(lambda: open_storage("s3:///prefix")).startswith("s3:///prefix: found no bucket")
    with_password = "s3://me:ge@heim@bucket/prefix"  # pragma: allowlist secret
    assert told(lambda: open_storage(with_password)).startswith(
        "s3://bucket/prefix: found credentials in an address, expected s3://BUCKET/PREFIX; set AWS_"
    )
    missing = tmp_path / "none"
    assert told(open_storage(str(missing)).check).startswith(f"{missing}: no such folder")
    assert told(lambda: open_storage(str(missing)).get("a", tmp_path / "a", nothing)).startswith(
        f"{missing}/a: No such file"
    )


def test_what_a_killed_process_left_in_a_folder_is_written_over_and_not_listed(
    tmp_path: Path,
) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from lockstep.ground.storage import open_storage
def moved(count):
    os.kill(os.getpid(), signal.SIGKILL)
open_storage(sys.argv[1]).put("ab/key", Path(sys.argv[2]), sys.argv[3], moved)
"""
    shared = tmp_path / "shared"
    shared.mkdir()
    path, digest = written(tmp_path / "file", os.urandom(3 << 20))
    words = [sys.executable, "-c", script, str(shared), str(path), digest]
    assert subprocess.run(words, cwd=ROOT).returncode == -signal.SIGKILL
    storage = open_storage(str(shared))
    assert (len([*shared.rglob("*.part")]), storage.list(), storage.size("ab/key")) == (1, {}, None)
    assert storage.put("ab/key", path, digest, nothing)
    assert ([*shared.rglob("*.part")], storage.list()) == ([], {"ab/key": 3 << 20})
