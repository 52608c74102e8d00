"""Brings the files of a data set to this machine, each checked against its digest."""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from project.data.catalog import Entry, SourceFile
from project.errors import DataError, RunError
from project.files import DATA, digest_of, told_in_one_line

SYSTEM_FOLDER = Path("/usr/share/datasets")


def fetch(
    entry: Entry,
    cache: Path,
    say: Callable[[str], None] = print,
    bar: Callable[[str], Any] | None = None,
) -> dict[str, Path]:
    """A path for each file of the data set, every one verified.

    A good copy on this machine is used where it lies: in the folders of ``LOCKSTEP_DATA_PATH``, in
    ``/usr/share/datasets/<name>``, in a locked package, or in the cache; else the mirrors are asked
    in turn. ``bar(name)`` may give pooch a progress bar. Raises DataError with all that was tried.
    """
    return {file.name: _fetched(entry, file, cache, say, bar) for file in entry.files}


def _fetched(
    entry: Entry,
    file: SourceFile,
    cache: Path,
    say: Callable[[str], None],
    bar: Callable[[str], Any] | None,
) -> Path:
    tried = []
    for path in _local_places(entry, file, cache):
        if not path.is_file():
            continue
        found = digest_of(path)
        if found == file.sha256:
            return path
        tried.append(
            f"{path} is altered or truncated ({path.stat().st_size} bytes, sha256 {found[:12]})"
        )
        say(f"warning: {tried[-1]}, wanted sha256 {file.sha256[:12]}; looking further")
    for address in file.addresses:
        if address.startswith("package:"):
            continue
        address += file.name if address.endswith("/") else ""
        try:
            return _downloaded(address, file, cache / entry.name, say, bar)
        except RunError:  # our own folder, not the mirror
            raise
        except Exception as error:  # whatever one mirror does, the next may be well
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            tried.append(f"{address}: {reason[:160]}")
    raise DataError(
        f"data {entry.name}: {file.name} (sha256 {file.sha256[:12]}) was not found: "
        f"{'; '.join(tried) or 'no copy on this machine'}. "
        f"Put a good copy into a folder and name that folder in LOCKSTEP_DATA_PATH."
    )


def _local_places(entry: Entry, file: SourceFile, cache: Path) -> Iterator[Path]:
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
    yield cache / entry.name / file.name


def _downloaded(
    address: str,
    file: SourceFile,
    folder: Path,
    say: Callable[[str], None],
    bar: Callable[[str], Any] | None,
) -> Path:
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    say(f"fetching {file.name} from {address}")
    with told_in_one_line(folder, DATA):
        folder.mkdir(parents=True, exist_ok=True)
    downloader = pooch.HTTPDownloader(progressbar=bar(file.name) if bar else False, timeout=30)
    # pooch downloads to a temporary file, checks the digest and only then renames.
    known = f"sha256:{file.sha256}"
    return Path(pooch.retrieve(address, known, file.name, folder, downloader=downloader))
