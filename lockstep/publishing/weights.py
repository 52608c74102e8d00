"""Weights by version, for others: published once, never changed, fetched once, used offline.

A storage holds, for each published name, as ``acme.digits`` (``Home.published_name``),

    weights/NAME/VERSION/SHA256/model.tar.gz   a bundle, under its digest
    weights/NAME/VERSION/entry.json            which of them the version is; written once

and the index of a name is the list of its entries: there is no file that two who publish at the
same time could overwrite for each other.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_origin

from lockstep.bundles import manifest
from lockstep.bundles.archive import content_of
from lockstep.bundles.opening import opened
from lockstep.ground.digests import digest_of, readable_json
from lockstep.ground.errors import BundleError, StorageError, nearest
from lockstep.ground.files import held, publish_folder, write_errors
from lockstep.ground.storage import Storage, open_storage
from lockstep.ground.watch import Watch
from lockstep.publishing.bundle import NAME, Bundle

WEIGHTS = "LOCKSTEP_WEIGHTS"
_ENTRY = "entry.json"
_NAME, _DIGEST = re.compile(r"\w+(\.\w+)*", re.ASCII), re.compile("[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9][0-9a-z.]*\+[0-9a-f]{8}")


@dataclass(frozen=True)
class Entry:
    """A published version: its published name, and the digests of its archive and manifest."""

    model: str  # the published name
    version: str
    sha256: str
    size: int
    manifest_sha256: str
    run: str
    identity: str
    test: dict[str, Any]
    signed: bool
    published: str

    @property
    def key(self) -> str:
        """Where the bundle lies in a storage."""
        return f"weights/{self.model}/{self.version}/{self.sha256}/{NAME}"

    @property
    def order(self) -> tuple[Any, ...]:
        """The key that sorts versions: by number, as package indexes do, equal ones by date.

        The identity after the plus has no order.
        """
        return _number(self.version), self.published, self.version

    def check(self) -> None:
        """Raise ValueError for a value of another type, or that cannot name weights."""
        for field in fields(self):
            value = getattr(self, field.name)
            kind = cast("type[Any]", get_origin(field.type) or field.type)
            if not isinstance(value, kind):
                raise ValueError(f"{field.name}: found {value!r:.40}, expected {kind.__name__}")
        for name, form in (("model", _NAME), ("version", _VERSION), ("sha256", _DIGEST)):
            if not form.fullmatch(getattr(self, name)):
                raise ValueError(f"{name}: {getattr(self, name)!r:.80} cannot name weights")
        _number(self.version)


def _number(version: str) -> Any:
    """Return the part before the plus for sorting. Raises ValueError if it is not a version."""
    from packaging.version import Version

    return Version(version.partition("+")[0])


@contextmanager
def moving(title: str, size: int, watch: Watch) -> Iterator[Callable[[int], None]]:
    """Show the progress of a transfer; yields what takes the number of bytes of each piece."""
    bar = watch.bar(title)
    if bar:
        bar.total = size
    else:
        watch.say(f"{title} ({size / 1e6:.1f} MB)")
    try:
        yield bar.update if bar else lambda _: None
    finally:
        if bar:
            bar.close()


def publish(bundle: Bundle, storage: Storage, moved: Callable[[int], None]) -> tuple[Entry, bool]:
    """Put a bundle into a storage; return its entry, and whether it is new there.

    A version that exists with the same files stays as it is, whoever signed it. Raises StorageError
    if it exists with other files, if it exists unsigned and this bundle is signed, and if the
    storage refuses.
    """
    storage.check()
    facts = bundle.facts
    entry = Entry(
        model=facts["published_name"],
        **{name: facts[name] for name in ("version", "run", "identity", "test")},
        sha256=bundle.sha256,
        size=len(bundle.content),
        manifest_sha256=bundle.manifest_sha256,
        signed=bundle.signed,
        published=datetime.now(UTC).isoformat(timespec="microseconds"),
    )
    try:
        entry.check()
    except ValueError as error:
        raise StorageError(
            f"{entry.model} {entry.version}: cannot be published ({error}); write [project] "
            "version in pyproject.toml as 0.2.0 or 0.2.0rc1, and publish again."
        ) from error
    key = _key(entry.model, entry.version)
    if storage.size(key) is None:
        # The bundle first: whoever sees the entry finds what it names.
        _put(storage, entry.key, bundle.content, moved)
        if _put(storage, key, readable_json(asdict(entry)), lambda _: None):
            return entry, True
    existing = _read(storage, key)
    if existing.manifest_sha256 != entry.manifest_sha256:
        raise StorageError(
            f"{storage}: has {entry.model} {entry.version} with other files (manifest "
            f"{existing.manifest_sha256[:12]}, this one is {entry.manifest_sha256[:12]}), and a "
            "version never changes; raise [project] version in pyproject.toml, and publish again."
        )
    if bundle.signed and not existing.signed:
        raise StorageError(
            f"{storage}: has {entry.model} {entry.version} unsigned, and a version never changes, "
            "not even to be signed; raise [project] version in pyproject.toml and publish again, "
            "or publish to another storage (--to STORAGE)."
        )
    return existing, False


def index(storage: Storage, model: str) -> list[Entry]:
    """List the published versions of a name, the newest first. Raises StorageError.

    A broken entry is skipped with a warning, so that it does not hide the others.
    """
    entries = []
    for key in storage.list(f"weights/{model}/"):
        if key.endswith(f"/{_ENTRY}"):
            content = _content(storage, key)
            try:
                entries.append(_entry(f"{storage}/{key}", key, content))
            except StorageError as error:
                warnings.warn(f"{error} Skipping it.", stacklevel=2)
    return sorted(entries, key=lambda entry: entry.order, reverse=True)


def fetched(model: str, version: str | None, data: Path, watch: Watch) -> Path:
    """Return the bundle of a version, or of the newest; downloaded once, then kept below ``data``.

    A version that is kept needs no network, unless it was altered since: then it is fetched again.
    Which version is the newest is asked of LOCKSTEP_WEIGHTS; if that cannot be reached, it is the
    newest that is kept, with a warning. Raises StorageError or BundleError if there is none, or if
    the download is not what its name, entry and manifest say.
    """
    if version is not None and not _VERSION.fullmatch(version):
        raise StorageError(f"{version}: not a version, expected one such as 0.1.0+3f9c1a2b.")
    cache, altered = data / "weights" / model, ""
    if version and (kept := cache / version / NAME).exists():
        altered = _altered(kept, model, version)
        if not altered:
            return kept
    address = os.environ.get(WEIGHTS)
    try:
        if not address:
            raise StorageError(
                f"{model} {version or 'weights'}: not on this machine, and {WEIGHTS} names no "
                "storage to fetch them from; set it to a folder or s3://BUCKET/PREFIX."
            )
        storage = open_storage(address)
        entry = _chosen(storage, model, version)
    except (StorageError, BundleError) as error:
        if altered:
            raise StorageError(f"{altered}; fetching it again failed: {error}") from error
        unreachable = version is None and isinstance(error, StorageError)
        if not unreachable or not (newest := _newest(cache, model)):
            raise
        if address:
            warnings.warn(f"{error} Using {model} {newest}, kept on this machine.", stacklevel=3)
        return cache / newest / NAME
    _fetch(storage, entry, cache / entry.version, watch)
    return cache / entry.version / NAME


def _chosen(storage: Storage, model: str, version: str | None) -> Entry:
    storage.check()
    if version and storage.size(_key(model, version)) is not None:
        return _read(storage, _key(model, version))
    entries = index(storage, model)
    if version or not entries:
        known = [entry.version for entry in entries]
        raise BundleError(
            f"{storage}: {model}{f' {version}' if version else ''} not found."
            f"{nearest(version or '', known)} (it has {', '.join(known[:5]) or 'no version'}; "
            "`invoke publish RUN` adds one)"
        )
    return entries[0]


def _fetch(storage: Storage, entry: Entry, final: Path, watch: Watch) -> None:
    def download(folder: Path) -> None:
        with moving(f"fetching {entry.model} {entry.version}", entry.size, watch) as moved:
            storage.get(entry.key, folder / NAME, moved)
        if (sha256 := digest_of(folder / NAME)) != entry.sha256:
            raise StorageError(
                f"{storage}: {entry.key}: found sha256 {sha256[:12]}, expected {entry.sha256[:12]} "
                "as in its entry; it was altered there. Publish the run again."
            )
        with opened(folder / NAME) as unpacked:
            facts = manifest.read(unpacked)
        if problem := _mismatch(facts, entry.model, entry.version):
            raise StorageError(f"{storage}: {entry.key}: {problem}; publish the run again.")
        (folder / _ENTRY).write_bytes(readable_json(asdict(entry)))
        shutil.rmtree(final, ignore_errors=True)  # the altered one, now that there is a better

    def is_kept() -> bool:
        kept = final / NAME
        return kept.exists() and not _altered(kept, entry.model, entry.version)

    if is_kept():
        return
    with write_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
    with held(final.parent, watch.say):
        if not is_kept():  # as another process may have fetched it while this one waited
            publish_folder(final, download)


def _altered(kept: Path, model: str, version: str) -> str:
    """Say what is wrong with a bundle that was fetched before; empty if nothing is.

    The entry is never signed, the manifest may be: so both must be of this name and version.
    """
    path = kept.with_name(_ENTRY)
    try:
        entry = _entry(str(path), _key(model, version), path.read_bytes())
        if (sha256 := digest_of(kept)) != entry.sha256:
            problem = f"found sha256 {sha256[:12]}, expected {entry.sha256[:12]} as in its entry"
        else:
            facts = manifest.parse(kept / manifest.NAME, content_of(kept, manifest.NAME))
            problem = _mismatch(facts, model, version)
        return f"{kept}: {problem}; it was altered" if problem else ""
    except (OSError, StorageError, BundleError) as error:
        return f"{kept}: not as it was fetched ({error})"


def _mismatch(facts: dict[str, Any], model: str, version: str) -> str:
    """Say whose weights a manifest describes, if not those of this name and version."""
    name = facts.get("published_name", facts["model"])  # the first edition had no other name
    if (name, facts["version"]) == (model, version):
        return ""
    return f"found {name} {facts['version']}, expected {model} {version}"


def _newest(cache: Path, model: str) -> str | None:
    """Return the newest version that is kept as it was fetched."""
    entries = []
    for path in cache.glob(f"[!.]*/{_ENTRY}"):
        version = path.parent.name
        if altered := _altered(path.with_name(NAME), model, version):
            warnings.warn(f"{altered}. Skipping it.", stacklevel=4)
        else:
            entries.append(_entry(str(path), _key(model, version), path.read_bytes()))
    return max(entries, key=lambda entry: entry.order).version if entries else None


def _put(storage: Storage, key: str, content: bytes, moved: Callable[[int], None]) -> bool:
    with tempfile.NamedTemporaryFile(prefix="lockstep-") as file:
        file.write(content)
        file.flush()
        return storage.put(key, Path(file.name), hashlib.sha256(content).hexdigest(), moved)


def _read(storage: Storage, key: str) -> Entry:
    return _entry(f"{storage}/{key}", key, _content(storage, key))


def _content(storage: Storage, key: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="lockstep-") as folder:
        path = Path(folder) / _ENTRY
        storage.get(key, path, lambda _: None)
        return path.read_bytes()


def _entry(place: str, key: str, content: bytes) -> Entry:
    """Parse the entry of a key, read from a place. Raises StorageError for any other content."""
    try:
        entry = Entry(**json.loads(content))
        entry.check()
        if _key(entry.model, entry.version) != key:
            raise ValueError(f"it is that of {entry.model} {entry.version}")
        return entry
    except (ValueError, TypeError, RecursionError) as error:
        raise StorageError(
            f"{place}: not an entry of these weights ({error}); it was altered. Remove it, and "
            "publish the run again."
        ) from error


def _key(model: str, version: str) -> str:
    return f"weights/{model}/{version}/{_ENTRY}"
