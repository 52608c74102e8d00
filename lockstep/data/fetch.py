"""Downloading the files of a data set, each checked against its digest."""

import functools
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lockstep.data.catalog import Entry, SourceFile
from lockstep.data.store import Store
from lockstep.ground.errors import DataError, StorageError, WriteError
from lockstep.ground.files import write_errors
from lockstep.ground.storage import Storage, open_storage

SYSTEM_FOLDER = Path("/usr/share/datasets")
REMOTE = "LOCKSTEP_DATA_REMOTE"


def fetch(
    entry: Entry,
    data: Path,
    say: Callable[[str], None] = print,
    bar: Callable[[str], Any] | None = None,
) -> dict[str, Path]:
    """Return a verified path for each file of the data set.

    A good copy on this machine is used in place: in the folders of ``LOCKSTEP_DATA_PATH``, in
    ``/usr/share/datasets/<name>``, in a locked package, or in the store in the folder ``data``;
    else ``LOCKSTEP_DATA_REMOTE`` and then the mirrors are asked, for the store. A file is
    not hashed again while its size, time and inode stay. ``bar(name)`` may give pooch a progress
    bar. Raises DataError with all that was tried.
    """
    store, remote = Store(data), functools.cache(open_storage)
    try:
        return {file.name: _fetched(entry, file, store, remote, say, bar) for file in entry.files}
    finally:
        store.digests.save()


def copies(entry: Entry, file: SourceFile, store: Store, *, again: bool = False) -> dict[Path, str]:
    """Yield each path on this machine with a file of that name, and its digest.

    ``again`` hashes each of them, also if nothing seems to have changed.
    """
    paths = filter(Path.is_file, _local_places(entry, file, store))
    return {path: store.digests.of(path, again=again) for path in paths}


def located(entry: Entry, store: Store) -> dict[str, Path]:
    """Return a good copy of each file of the data set that is on this machine."""
    found: dict[str, Path] = {}
    for file in entry.files:
        for path, digest in copies(entry, file, store).items():
            if digest == file.sha256:
                found.setdefault(file.name, path)
    return found


def _fetched(
    entry: Entry,
    file: SourceFile,
    store: Store,
    remote: Callable[[str], Storage],
    say: Callable[[str], None],
    bar: Callable[[str], Any] | None,
) -> Path:
    tried = []
    for path in _local_places(entry, file, store):
        if not path.is_file():
            continue
        found = store.digests.of(path)
        if found == file.sha256:
            return path
        tried.append(
            f"{path} is altered or truncated ({path.stat().st_size} bytes, sha256 {found[:12]})"
        )
        say(f"warning: {tried[-1]}, expected sha256 {file.sha256[:12]}; looking further")
    if shared := os.environ.get(REMOTE):
        try:
            storage = remote(shared)
            say(f"fetching {file.name} from {storage}")
            return store.bring(storage, file, lambda _: None)
        except StorageError as error:
            tried.append(str(error))
    for address in file.addresses:
        if address.startswith("package:"):
            continue
        address += file.name if address.endswith("/") else ""
        try:
            return _downloaded(address, file, store, say, bar)
        except WriteError:  # of our own folder, not the mirror's
            raise
        except Exception as error:  # whatever fails on one mirror, the next may work
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            tried.append(f"{address}: {reason[:160]}")
    raise DataError(
        f"data {entry.name}: {file.name} (sha256 {file.sha256[:12]}) was not found: "
        f"{'; '.join(tried) or 'no copy on this machine'}. Put a good copy into a folder and name "
        f"that folder in LOCKSTEP_DATA_PATH, or name in {REMOTE} a storage that has it."
    )


def _local_places(entry: Entry, file: SourceFile, store: Store) -> Iterator[Path]:
    for folder in os.environ.get("LOCKSTEP_DATA_PATH", "").split(os.pathsep):
        if folder:
            yield Path(folder) / entry.name / file.name
            yield Path(folder) / file.name
    yield SYSTEM_FOLDER / entry.name / file.name
    for address in file.addresses:
        if address.startswith("package:"):
            package, _, inside = address.removeprefix("package:").partition("/")
            spec = find_spec(package)
            for folder in (spec and spec.submodule_search_locations) or ():
                yield Path(folder) / inside
    yield store.path(file.sha256)


def _downloaded(
    address: str,
    file: SourceFile,
    store: Store,
    say: Callable[[str], None],
    bar: Callable[[str], Any] | None,
) -> Path:
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    say(f"fetching {file.name} from {address}")
    final = store.path(file.sha256)
    with write_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
    downloader = pooch.HTTPDownloader(progressbar=bar(file.name) if bar else False, timeout=30)
    # pooch downloads to a temporary file, checks the digest and only then renames.
    known = f"sha256:{file.sha256}"
    found = pooch.retrieve(address, known, final.name, final.parent, downloader=downloader)
    return Path(found)
