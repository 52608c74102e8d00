"""The bytes of data sets on this machine: a store by digest, and a cache of digests."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from lockstep.data.catalog import SourceFile
from lockstep.ground.digests import digest_of, readable_json
from lockstep.ground.errors import DataError, StorageError, WriteError
from lockstep.ground.files import flush_folder, write_atomically, write_errors
from lockstep.ground.storage import Storage


def signature(path: Path) -> list[int]:
    """Return what changes when a file is written, without reading it; empty without a file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


class Digests:
    """A cache of files' digests, valid while size, time and inode stay.

    ``checked`` counts those that were read to be hashed.
    """

    def __init__(self, path: Path):
        self._path, self._lock, self.checked = path, Lock(), 0
        try:
            known = json.loads(path.read_bytes())
            rows = {name: row for name, row in known.items() if isinstance(row, list)}
        except (OSError, ValueError, AttributeError):
            rows = {}
        self._known: dict[str, list[Any]] = rows

    def of(self, path: Path, *, again: bool = False) -> str:
        """The sha256 of a file; ``again`` reads it also if nothing seems to have changed."""
        name, before = str(path.absolute()), signature(path)
        known = self._known.get(name, [])
        if not again and known[:-1] == before and before:
            return str(known[-1])
        found = digest_of(path)
        with self._lock:
            self.checked += 1
            if signature(path) == before:
                self._known[name] = [*before, found]
        return found

    def save(self) -> None:
        """Save the cache; where that is impossible, files are hashed again next time."""
        if self.checked:
            known = {name: row for name, row in self._known.items() if Path(name).exists()}
            with suppress(WriteError, OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, readable_json(known))


class Store:
    """A folder with files under their digests, which never change."""

    def __init__(self, data: Path):
        self.folder = data / "store"
        self.digests = Digests(self.folder / "digests.json")

    def path(self, sha256: str) -> Path:
        """Return the path of the file with that digest, if it is here."""
        return self.folder / key(sha256)

    def has(self, sha256: str) -> bool:
        """Whether it is here, and not altered."""
        path = self.path(sha256)
        return path.is_file() and self.digests.of(path) == sha256

    def put(self, source: Path, sha256: str) -> Path:
        """Copy a file into the store. Raises DataError if its digest has changed."""
        final = self.path(sha256)
        if self.has(sha256):
            return final
        part = final.with_name(f".{sha256}.{os.getpid()}.part")
        with write_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                # No hard link: an edit of the original in place would alter the store.
                shutil.copyfile(source, part)
                if digest_of(part) != sha256:
                    raise DataError(f"{source}: changed while it was read; try again.")
                self._publish(part, final)
            finally:
                part.unlink(missing_ok=True)
        return final

    def bring(self, storage: Storage, file: SourceFile, moved: Callable[[int], None]) -> Path:
        """Download a file from a storage; resumes a partial download.

        Raises StorageError if it does not exist there or has another digest.
        """
        final = self.path(file.sha256)
        if storage.size(key(file.sha256)) is None:
            raise StorageError(
                f"{storage}: has no {file.name} (sha256 {file.sha256[:12]}); push it from a "
                "machine that has it (`invoke data push NAME`)."
            )
        part = final.with_name(f".{file.sha256}.part")
        with write_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)  # another process may be downloading it
                if self.has(file.sha256):
                    part.unlink(missing_ok=True)
                    return final
                for _ in range(2):  # the partial download may be corrupt
                    storage.get(key(file.sha256), part, moved)
                    if (found := digest_of(part)) == file.sha256:
                        self._publish(part, final)
                        return final
                    os.truncate(part, 0)
                part.unlink()
        raise StorageError(
            f"{storage}: {file.name} has sha256 {found[:12]} there, expected {file.sha256[:12]}; "
            f"remove {key(file.sha256)} there and push it again."
        )

    def _publish(self, part: Path, final: Path) -> None:
        part.chmod(0o444)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, final)
        flush_folder(final.parent)


def key(sha256: str) -> str:
    """Return the name of a file in a store or storage: its digest, in 256 folders."""
    return f"{sha256[:2]}/{sha256}"
