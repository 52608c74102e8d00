"""Weights by version, for others: published once, never changed, fetched once, used offline.

In a storage lies, for each model,

    weights/MODEL/VERSION/SHA256/model.tar.gz   a bundle, under its digest
    weights/MODEL/VERSION/entry.json            which of them the version is; put once

and the index of a model is the list of its entries: there is no file that two who publish at the
same time could write over for each other.
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
from lockstep.ground.files import DATA, held, publish_folder, told_in_one_line
from lockstep.ground.storage import Storage, open_storage
from lockstep.ground.watch import Watch
from lockstep.publishing.bundle import NAME, Bundle

WEIGHTS = "LOCKSTEP_WEIGHTS"
_ENTRY = "entry.json"
_MODEL, _DIGEST = re.compile("[a-z0-9_.]+"), re.compile("[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9][0-9a-z.]*\+[0-9a-f]{8}")


@dataclass(frozen=True)
class Entry:
    """A published version: the digests of its archive and of its manifest, and whose it is."""

    model: str
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
        """What sorts versions: by number, as package indexes do; of equal ones by date.

        The identity behind the plus has no order.
        """
        return _number(self.version), self.published, self.version

    def check(self) -> None:
        """Raise ValueError for what names no weights, or facts of another kind."""
        for field in fields(self):
            value = getattr(self, field.name)
            kind = cast("type[Any]", get_origin(field.type) or field.type)
            if not isinstance(value, kind):
                raise ValueError(f"{field.name}: found {value!r:.40}, wanted {kind.__name__}")
        for name, form in (("model", _MODEL), ("version", _VERSION), ("sha256", _DIGEST)):
            if not form.fullmatch(getattr(self, name)):
                raise ValueError(f"{name}: {getattr(self, name)!r:.80} names no weights")
        _number(self.version)


def _number(version: str) -> Any:
    """What stands before the plus, to be sorted by. Raises ValueError if it is no version."""
    from packaging.version import Version

    return Version(version.partition("+")[0])


@contextmanager
def moving(title: str, size: int, watch: Watch) -> Iterator[Callable[[int], None]]:
    """What is told the bytes that go over, for people to see."""
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
    """Put a bundle into a storage; its entry, and whether it is new there.

    A version that is there with the same files, whoever signed it, stays as it is. Raises
    StorageError for one with other files, for one that is there unsigned where this bundle is
    signed, and if the storage refuses.
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
            f"{entry.model} {entry.version}: cannot be published ({error}); wanted a version as "
            "0.2.0+3f9c1a2b or 0.2.0rc1+3f9c1a2b. Write [project] version in pyproject.toml so, and publish again."
        ) from error
    key = _key(entry.model, entry.version)
    if storage.size(key) is None:
        # The bundle first: who sees the entry finds what it names.
        _put(storage, entry.key, bundle.content, moved)
        if _put(storage, key, readable_json(asdict(entry)), lambda _: None):
            return entry, True
    there = _read(storage, key)
    if there.manifest_sha256 != entry.manifest_sha256:
        raise StorageError(
            f"{storage}: has {entry.model} {entry.version} with other files (manifest "
            f"{there.manifest_sha256[:12]}, this one is {entry.manifest_sha256[:12]}), and a "
            "version is never changed; raise [project] version in pyproject.toml, and publish again."
        )
    if bundle.signed and not there.signed:
        raise StorageError(
            f"{storage}: has {entry.model} {entry.version} unsigned, and a version is never "
            "changed, not even to sign it; publish it to another storage (--to STORAGE), or raise "
            "[project] version in pyproject.toml. Without a key it stays as it is."
        )
    return there, False


def index(storage: Storage, model: str) -> list[Entry]:
    """The published versions of a model, the newest first. Raises StorageError.

    An entry that is none is passed over, with a warning: it must not hide the others.
    """
    found = []
    for key in storage.list(f"weights/{model}/"):
        if key.endswith(f"/{_ENTRY}"):
            content = _content(storage, key)
            try:
                found.append(_entry(f"{storage}/{key}", key, content))
            except StorageError as error:
                warnings.warn(f"{error} Passing over it.", stacklevel=2)
    return sorted(found, key=lambda entry: entry.order, reverse=True)


def fetched(model: str, version: str | None, data: Path, watch: Watch) -> Path:
    """The bundle of a version, or of the newest; downloaded once, then kept below ``data``.

    A version that is here needs no network, unless it was altered since it came: then it is fetched
    anew. For the newest LOCKSTEP_WEIGHTS is asked; if that cannot be reached, the newest that is
    here is taken, with a warning. Raises StorageError or BundleError if there is none, or if what
    came is not what its name, entry and manifest say.
    """
    if version is not None and not _VERSION.fullmatch(version):
        raise StorageError(f"{version}: is no version, wanted one as 0.1.0+3f9c1a2b.")
    cache, altered = data / "weights" / model, ""
    if version and (here := cache / version / NAME).exists():
        altered = _altered(here, model, version)
        if not altered:
            return here
    address = os.environ.get(WEIGHTS)
    try:
        if not address:
            raise StorageError(
                f"{model} {version or 'weights'}: are not here, and {WEIGHTS} names no storage to "
                "fetch them from; set it to a folder or s3://BUCKET/PREFIX."
            )
        storage = open_storage(address)
        entry = _chosen(storage, model, version)
    except (StorageError, BundleError) as error:
        if altered:
            raise StorageError(f"{altered}; fetching it anew failed: {error}") from error
        asked_in_vain = version is None and isinstance(error, StorageError)
        if not asked_in_vain or not (kept := _kept(cache, model)):
            raise
        if address:
            warnings.warn(f"{error} Taking {model} {kept}, which is here.", stacklevel=3)
        return cache / kept / NAME
    _fetch(storage, entry, cache / entry.version, watch)
    return cache / entry.version / NAME


def _chosen(storage: Storage, model: str, version: str | None) -> Entry:
    storage.check()
    if version and storage.size(_key(model, version)) is not None:
        return _read(storage, _key(model, version))
    found = index(storage, model)
    if version or not found:
        known = [entry.version for entry in found]
        raise BundleError(
            f"{storage}: has no {model} {version or 'at all'}.{nearest(version or '', known)} "
            f"(it has {', '.join(known[:5]) or 'none'}; `invoke publish RUN` adds one)"
        )
    return found[0]


def _fetch(storage: Storage, entry: Entry, final: Path, watch: Watch) -> None:
    def bring(folder: Path) -> None:
        with moving(f"fetching {entry.model} {entry.version}", entry.size, watch) as moved:
            storage.get(entry.key, folder / NAME, moved)
        if (found := digest_of(folder / NAME)) != entry.sha256:
            raise StorageError(
                f"{storage}: {entry.key} arrived with sha256 {found[:12]}, its entry says "
                f"{entry.sha256[:12]}; it was altered there. Have it published anew."
            )
        with opened(folder / NAME) as unpacked:
            said = manifest.read(unpacked)
        if other := _other(said, entry.model, entry.version):
            raise StorageError(f"{storage}: {entry.key} {other}; have it published anew.")
        (folder / _ENTRY).write_bytes(readable_json(asdict(entry)))
        shutil.rmtree(final, ignore_errors=True)  # what was altered, now that there is better

    def is_here() -> bool:
        here = final / NAME
        return here.exists() and not _altered(here, entry.model, entry.version)

    if is_here():
        return
    with told_in_one_line(final, DATA):
        final.parent.mkdir(parents=True, exist_ok=True)
    with held(final.parent, watch.say):
        if not is_here():  # as another process may have fetched it while this one waited
            publish_folder(final, bring, DATA)


def _altered(here: Path, model: str, version: str) -> str:
    """What is wrong with a bundle that was fetched before, in words; empty if nothing is.

    The entry is signed by nobody, the manifest may be: so both must be of what was asked for.
    """
    path = here.with_name(_ENTRY)
    try:
        entry = _entry(str(path), _key(model, version), path.read_bytes())
        if (found := digest_of(here)) != entry.sha256:
            other = f"found sha256 {found[:12]}, its entry says {entry.sha256[:12]}"
        else:
            said = manifest.parsed(here / manifest.NAME, content_of(here, manifest.NAME))
            other = _other(said, model, version)
        return f"{here}: {other}; it was altered" if other else ""
    except (OSError, StorageError, BundleError) as error:
        return f"{here}: is not as it came ({error})"


def _other(said: dict[str, Any], model: str, version: str) -> str:
    """What a manifest names, if that is not this version; else nothing."""
    name = said.get("published_name", said["model"])
    if (name, said["version"]) == (model, version):
        return ""
    return f"holds {name} {said['version']}, wanted {model} {version}"


def _kept(cache: Path, model: str) -> str | None:
    """The newest version that is here as it came."""
    entries = []
    for path in cache.glob(f"[!.]*/{_ENTRY}"):
        version = path.parent.name
        if altered := _altered(path.with_name(NAME), model, version):
            warnings.warn(f"{altered}. Passing over it.", stacklevel=4)
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
    """The entry of a key, as found at a place. Raises StorageError for any other."""
    try:
        entry = Entry(**json.loads(content))
        entry.check()
        if _key(entry.model, entry.version) != key:
            raise ValueError(f"it is that of {entry.model} {entry.version}")
        return entry
    except (ValueError, TypeError, RecursionError) as error:
        raise StorageError(
            f"{place}: is no entry of these weights ({error}); it was altered. Remove it, and "
            "publish the run again."
        ) from error


def _key(model: str, version: str) -> str:
    return f"weights/{model}/{version}/{_ENTRY}"
