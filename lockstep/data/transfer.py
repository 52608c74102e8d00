"""Data sets to and from a shared storage: in parallel, resumable, verified."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lockstep.data.catalog import Entry, SourceFile, names, versions
from lockstep.data.fetch import copies, located
from lockstep.data.store import Store, key
from lockstep.ground.errors import DataError, StorageError
from lockstep.ground.storage import Storage

_AT_ONCE = 8
_EVERY = 10.0  # seconds between two lines without a terminal


@dataclass
class Done:
    """What a push or pull did, by the files' names; ``bytes`` that went over."""

    sent: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    bytes: int = 0


class _Stopped(Exception):
    """Another transfer failed, or the user stopped all of them."""


class _Progress:
    """Counts bytes for a bar or, without a terminal, a line every ten seconds; can stop all."""

    def __init__(
        self, title: str, total: int, say: Callable[[str], None], bar: Callable[[str], Any]
    ):
        self._title, self._total, self._say = title, total, say
        self._lock, self._last, self.moved, self.stopped = threading.Lock(), time.monotonic(), 0, 0
        self._bar = bar(title)
        if self._bar:
            self._bar.total = total

    def __call__(self, count: int) -> None:
        with self._lock:
            if self.stopped:
                raise _Stopped
            self.moved += count
            if self._bar:
                self._bar.update(count)
            elif time.monotonic() - self._last >= _EVERY:
                self._last = time.monotonic()
                self._say(f"{self._title}: {self.moved / 1e6:.1f} of {self._total / 1e6:.1f} MB")

    def close(self) -> None:
        if self._bar:
            self._bar.close()


def push(
    entries: Sequence[Entry],
    data: Path,
    storage: Storage,
    say: Callable[[str], None],
    bar: Callable[[str], Any],
) -> Done:
    """Upload the files of data sets that are on this machine and not in the storage.

    The storage checks each against its digest. The same command resumes a killed push.
    Raises StorageError for the first that fails; ``missing`` are those that are not here.
    """
    storage.check()
    store, done = Store(data), Done()
    paths: dict[str, Path] = {}
    files = _distinct(entries)
    for entry in entries:
        here = located(entry, store)
        paths |= {file.sha256: here[file.name] for file in entry.files if file.name in here}
        done.missing += [f"{entry.reference} {f.name}" for f in entry.files if f.name not in here]
    store.digests.save()

    def send(file: SourceFile, moved: _Progress) -> bool:
        path, there = paths[file.sha256], storage.size(key(file.sha256))
        new = there is None and storage.put(key(file.sha256), path, file.sha256, moved)
        if not new and (there or storage.size(key(file.sha256))) != (size := path.stat().st_size):
            raise StorageError(
                f"{storage}: holds {key(file.sha256)} with {there} bytes, expected {size}; remove"
                " it there and push again."
            )
        return new

    uploads = [file for sha256, file in files.items() if sha256 in paths]
    total = sum(paths[file.sha256].stat().st_size for file in uploads)
    return _all(uploads, send, done, _Progress(f"pushing to {storage}", total, say, bar))


def pull(
    entries: Sequence[Entry],
    data: Path,
    storage: Storage,
    say: Callable[[str], None],
    bar: Callable[[str], Any],
) -> Done:
    """Download the files of data sets that this machine lacks; each is verified by its digest.

    The same command resumes a killed pull. Raises StorageError for the first that fails.
    """
    storage.check()
    store, done = Store(data), Done()
    missing: dict[str, SourceFile] = {}
    for entry in entries:
        here = located(entry, store)
        done.there += [file.name for file in entry.files if file.name in here]
        missing |= {file.sha256: file for file in entry.files if file.name not in here}
    store.digests.save()

    def bring(file: SourceFile, moved: _Progress) -> bool:
        store.bring(storage, file, moved)
        return True

    total = sum(file.size or 0 for file in missing.values())
    progress = _Progress(f"pulling from {storage}", total, say, bar)
    return _all(list(missing.values()), bring, done, progress)


def verify(entries: Iterable[Entry], data: Path, catalog: Path) -> tuple[Done, list[str]]:
    """Hash all copies on this machine again; return the good, missing and altered ones.

    A file of that name that belongs to another data set or version of the catalog is good, too.
    """
    store, done, altered = Store(data), Done(), []
    everything = [version for name in names(catalog) for version in versions(name, catalog)]
    digests = _distinct([*everything, *(entries := list(entries))])
    for entry in entries:
        for file in entry.files:
            found = copies(entry, file, store, again=True)
            for path, digest in found.items():
                if digest not in digests:
                    altered.append(
                        f"{path} is altered or truncated ({path.stat().st_size} bytes, sha256 "
                        f"{digest[:12]}, expected {file.sha256[:12]})"
                    )
            good = file.sha256 in found.values()
            (done.there if good else done.missing).append(f"{entry.reference} {file.name}")
    store.digests.save()
    return done, list(dict.fromkeys(altered))


def _distinct(entries: Iterable[Entry]) -> dict[str, SourceFile]:
    """Return the files of all, each once, by their digests."""
    return {file.sha256: file for entry in entries for file in entry.files}


def _all(
    files: Sequence[SourceFile],
    move: Callable[[SourceFile, _Progress], bool],
    done: Done,
    progress: _Progress,
) -> Done:
    """Move files in parallel threads; the first failure, or Ctrl-C, ends all of them."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        moves = [pool.submit(move, file, progress) for file in files]
        try:
            for file, moved in zip(files, moves, strict=True):
                (done.sent if moved.result() else done.there).append(file.name)
        except BaseException as error:
            progress.stopped = 1
            pool.shutdown(wait=True, cancel_futures=True)
            raise _first(moves, error) from error
        finally:
            progress.close()
    done.bytes = progress.moved
    return done


def _first(moves: Sequence[Any], error: BaseException) -> BaseException:
    """Return the first failure, not those that it caused."""
    if not isinstance(error, _Stopped):
        return error
    failed = [move.exception() for move in moves if not move.cancelled()]
    found = [one for one in failed if one and not isinstance(one, _Stopped)]
    return found[0] if found else DataError("stopped; run the same command to resume.")
