"""Where files are kept for others: a shared folder, or a bucket that speaks S3.

Objects are put once and never changed, each checked against the digest that it must have. boto3
finds endpoint and credentials by its own variables and files (``AWS_ENDPOINT_URL``, ...).
"""

import base64
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from lockstep.ground import aws
from lockstep.ground.errors import StorageError
from lockstep.ground.files import flush_folder, write_errors

PART = 16 << 20  # of a file that is sent in parts; what a kill costs at most
_PARTS_AT_ONCE = 4
_CHUNK = 1 << 20
Moved = Callable[[int], None]  # called with the bytes of each piece; may raise to stop


class Storage(Protocol):
    """Objects under keys such as ``ab/abcdef``; every failure is a StorageError."""

    def check(self) -> None:
        """Raise StorageError if the storage does not exist or access is denied."""

    def list(self, prefix: str = "") -> dict[str, int]:
        """The keys that begin so, and the size of each in bytes."""

    def size(self, key: str) -> int | None:
        """The size of an object; None if there is none."""

    def put(self, key: str, path: Path, sha256: str, moved: Moved) -> bool:
        """Store a file; False if another had the key first, whose object then stays as it is.

        Raises StorageError, and stores nothing, if what arrives has another digest.
        """

    def get(self, key: str, path: Path, moved: Moved) -> None:
        """Download an object to a file; resumes a partial download."""


def open_storage(address: str) -> Storage:
    """The storage at ``s3://bucket/prefix`` or in a folder."""
    if not address.startswith("s3://"):
        if "://" in address:
            raise StorageError(
                f"{address}: no such storage, expected a folder or s3://BUCKET/PREFIX"
            )
        return Folder(Path(address).expanduser())
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    if not bucket:
        raise StorageError(f"{address}: found no bucket, expected s3://BUCKET/PREFIX")
    if "@" in bucket:
        raise StorageError(
            f"{address}: found credentials in an address, expected s3://BUCKET/PREFIX; set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead."
        )
    return Bucket(bucket, prefix.strip("/"))


class Folder:
    """A folder that other machines share, such as a network share."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def check(self) -> None:
        if not self.folder.is_dir():
            raise StorageError(f"{self.folder}: no such folder; create it, or mount the share.")

    def list(self, prefix: str = "") -> dict[str, int]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        keys = {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in found}
        return {
            key: size
            for key, size in sorted(keys.items())
            if key.startswith(prefix) and not key.endswith(".part")
        }

    def size(self, key: str) -> int | None:
        path = self.folder / key
        return path.stat().st_size if path.is_file() else None

    def put(self, key: str, path: Path, sha256: str, moved: Moved) -> bool:
        final = self.folder / key
        # One name for each machine, so that the next process overwrites what a killed one left.
        part = final.with_name(f".{final.name}.{os.uname().nodename}.part")
        with write_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as target, path.open("rb") as source:
                fcntl.flock(target, fcntl.LOCK_EX)
                if new := not final.exists():
                    target.truncate(0)
                    found = _copied(source, target, moved)
                    target.flush()
                    os.fsync(target.fileno())
                    _refuse_other(path, found, sha256)
                    new = _named(part, final)
                    flush_folder(final.parent)
                part.unlink(missing_ok=True)
        return new

    def get(self, key: str, path: Path, moved: Moved) -> None:
        try:
            source = (self.folder / key).open("rb")
        except OSError as error:
            raise StorageError(f"{self.folder / key}: {error.strerror}") from error
        with source, path.open("ab") as target:
            source.seek(target.tell())
            shutil.copyfileobj(_Told(source, moved), target, _CHUNK)


class Bucket:
    """A bucket, or what lies in it under a prefix."""

    def __init__(self, bucket: str, prefix: str):
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise StorageError(
                f"s3://{bucket}: boto3 is not installed; ./workbench installs the locked packages."
            ) from error
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 4},
            max_pool_connections=64,
        )
        with self._told():
            # A new session: the default one keeps the credentials that it saw first.
            self._client: Any = boto3.session.Session().client("s3", config=config)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def check(self) -> None:
        with self._told():
            self._client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)

    def list(self, prefix: str = "") -> dict[str, int]:
        with self._told():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            return {
                item["Key"].removeprefix(self.prefix): item["Size"]
                for page in pages
                for item in page.get("Contents", ())
            }

    def size(self, key: str) -> int | None:
        with self._told(absent=True):
            return cast(int, self._client.head_object(**self._at(key))["ContentLength"])
        return None

    def put(self, key: str, path: Path, sha256: str, moved: Moved) -> bool:
        with self._told(taken=True):
            if path.stat().st_size > PART:
                return self._put_in_parts(key, path, sha256, moved)
            content = path.read_bytes()
            _refuse_other(path, hashlib.sha256(content).digest(), sha256)
            self._client.put_object(
                **self._at(key), Body=content, IfNoneMatch="*", ChecksumSHA256=_checksum(content)
            )
            moved(len(content))
            return True
        return False

    def get(self, key: str, path: Path, moved: Moved) -> None:
        with self._told(), path.open("ab") as target:
            size = self._client.head_object(**self._at(key))["ContentLength"]
            if (start := target.tell()) >= size:
                return
            answer = self._client.get_object(**self._at(key), Range=f"bytes={start}-")
            for chunk in answer["Body"].iter_chunks(_CHUNK):
                target.write(chunk)
                moved(len(chunk))

    def _put_in_parts(self, key: str, path: Path, sha256: str, moved: Moved) -> bool:
        """Upload the parts that an earlier, interrupted upload lacks, then complete it."""
        if self.size(key) is not None:
            return False
        upload, there = self._begun(key)
        whole = hashlib.sha256()
        with path.open("rb") as file, ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:

            def send(number: int) -> dict[str, Any]:
                content = os.pread(file.fileno(), PART, (number - 1) * PART)
                found = {"PartNumber": number, "ChecksumSHA256": _checksum(content)}
                tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
                if there.get(number) != tag:
                    answer = self._client.upload_part(
                        **self._at(key), UploadId=upload, Body=content, **found
                    )
                    tag = answer["ETag"].strip('"')
                moved(len(content))
                return found | {"ETag": f'"{tag}"'}

            sending = pool.map(send, range(1, -(-path.stat().st_size // PART) + 1))
            while content := file.read(PART):
                whole.update(content)
            try:
                parts = list(sending)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        try:
            _refuse_other(path, whole.digest(), sha256)
        except StorageError:
            self._client.abort_multipart_upload(**self._at(key), UploadId=upload)
            raise
        self._client.complete_multipart_upload(
            **self._at(key), UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
        )
        return True

    def _begun(self, key: str) -> tuple[str, dict[int, str]]:
        """Return an unfinished upload of the key, or a new one, and the MD5 of each part."""
        found = self._client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.prefix + key)
        begun = [one for one in found.get("Uploads", ()) if one["Key"] == self.prefix + key]
        if not begun:
            made = self._client.create_multipart_upload(**self._at(key), ChecksumAlgorithm="SHA256")
            return made["UploadId"], {}
        upload = min(begun, key=lambda one: (one["Initiated"], one["UploadId"]))["UploadId"]
        pages = self._client.get_paginator("list_parts").paginate(**self._at(key), UploadId=upload)
        parts = [part for page in pages for part in page.get("Parts", ())]
        return upload, {part["PartNumber"]: part["ETag"].strip('"') for part in parts}

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    @contextmanager
    def _told(self, *, absent: bool = False, taken: bool = False) -> Iterator[None]:
        """Turn boto3's errors into a StorageError of one line; ignore the expected ones."""
        from botocore.exceptions import ClientError

        with aws.told(str(self), StorageError):
            try:
                yield
            except ClientError as error:
                code = aws.code_of(error)
                if not ((absent and code in ("404", "NoSuchKey")) or (taken and code in _TAKEN)):
                    raise


_TAKEN = ("PreconditionFailed", "412", "NoSuchUpload")  # the last: completed by another process


def _named(part: Path, final: Path) -> bool:
    """Give a file its final name; return False if another file has it already."""
    try:
        os.link(part, final)  # which, unlike a rename, replaces nothing
    except FileExistsError:
        return False
    except OSError:  # a share without hard links
        os.replace(part, final)
    return True


class _Told:
    """A file that reports how much of it was read."""

    def __init__(self, file: Any, moved: Moved):
        self._file, self._moved = file, moved

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._file.read(size)
        self._moved(len(content))
        return content


def _copied(source: Any, target: Any, moved: Moved) -> bytes:
    """Copy to the end; the sha256 of what was copied."""
    found = hashlib.sha256()
    while content := source.read(_CHUNK):
        found.update(content)
        target.write(content)
        moved(len(content))
    return found.digest()


def _refuse_other(path: Path, found: bytes, expected: str) -> None:
    if found.hex() != expected:
        raise StorageError(
            f"{path}: is altered (sha256 {found.hex()[:12]}, expected {expected[:12]}); nothing was"
            " stored. Restore a good copy (`invoke data verify` names all that are altered)."
        )


def _checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
