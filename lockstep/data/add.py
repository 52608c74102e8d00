"""Adding a data set of the team: checked completely, then stored and cataloged, or not at all."""

import dataclasses
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lockstep.data import archive, catalog, raw
from lockstep.data.catalog import Entry, SourceFile
from lockstep.data.decode import READERS
from lockstep.data.problems import Problems
from lockstep.data.split import Examples
from lockstep.data.store import Store
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import DataError
from lockstep.ground.files import held, remove_abandoned, write_atomically, write_errors

TABLES = (".csv", ".tsv", ".parquet", ".pq")


@dataclass(frozen=True)
class Request:
    """What to add, under which name, and how to read it.

    ``size`` (height, width) and ``rgb`` are for pictures, the columns for tables; ``validation``
    and ``test`` are the shares of those splits.
    """

    path: Path
    name: str
    label: str | None = None
    text: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    id: str | None = None
    size: tuple[int, int] | None = None
    rgb: bool = False
    validation: float = 0.1
    test: float = 0.1
    title: str | None = None
    licence: str | None = None
    origin: str | None = None


def add(
    request: Request, data: Path, folder: Path, say: Callable[[str], None]
) -> tuple[Entry, bool]:
    """Copy a data set into the store and its version into the catalog; return whether it is new.

    Raises DataError with every problem, each with file and row, and then changes nothing.
    """
    _refuse_nonsense(request)
    store = Store(data)
    with write_errors(store.folder):
        store.folder.mkdir(parents=True, exist_ok=True)
        for path in store.folder.glob(".adding-*"):  # left by a killed process
            remove_abandoned(path)
        with (
            tempfile.TemporaryDirectory(prefix=".adding-", dir=store.folder) as packed,
            held(Path(packed), say),
        ):
            decoder, reading, paths = _recognised(request, Path(packed), say)
            digests = {name: digest_of(path) for name, path in paths.items()}
            files = tuple(
                SourceFile(name, digests[name], (), path.stat().st_size)
                for name, path in paths.items()
            )
            entry = _looked_at(request, decoder, reading, paths, files)
            folder.mkdir(exist_ok=True)  # the first data set of a project
            with held(folder, say):
                known = catalog.versions(entry.name, folder) if _known(entry, folder) else []
                if there := [one for one in known if one.digest == entry.digest]:
                    return there[0], False
                _keep(entry, paths, store, folder, bool(known), request)
    return entry, True


def read_as(entry: Entry, path: Path) -> tuple[Examples, Problems]:
    """Read files outside the store as a version of the catalog is read."""
    problems = Problems()
    with tempfile.TemporaryDirectory() as packed:
        if entry.decoder == "pictures":
            paths = _packed(path, Path(packed))
        elif entry.decoder == "arrays":
            paths = {name: path / name for pair in raw.pairs(path).values() for name in pair}
            entry = dataclasses.replace(entry, reading=entry.reading | {"pairs": raw.pairs(path)})
        else:
            paths = {path.name: path}
        return READERS[entry.decoder](entry, paths, problems), problems


def _refuse_nonsense(request: Request) -> None:
    if not re.fullmatch(catalog.NAME, request.name):
        raise DataError(
            f"--name: found {request.name!r}, expected lowercase letters, digits, dots, dashes"
            " and _."
        )
    if min(request.validation, request.test) <= 0 or request.validation + request.test >= 1:
        raise DataError(
            f"--validation, --test: found {request.validation} and {request.test}, expected shares "
            "above 0 that leave some for training."
        )


def _recognised(
    request: Request, packed: Path, say: Callable[[str], None]
) -> tuple[str, dict[str, Any], dict[str, Path]]:
    """Return the decoder for a path, its parameters, and the files by name."""
    path, shares = request.path, {"validation": request.validation, "test": request.test}
    if path.is_file() and path.suffix in TABLES:
        if not request.label or bool(request.text) == bool(request.numbers):
            raise DataError(
                f"{path}: a table needs --label COLUMN and either --text COLUMN or --numbers "
                "COLUMN, for each column that is an input."
            )
        columns = {"text": list(request.text), "numbers": list(request.numbers)}
        reading: dict[str, Any] = {kind: names for kind, names in columns.items() if names}
        reading |= {"label": request.label} | ({"id": request.id} if request.id else {})
        return "table", reading | {"shares": shares}, {path.name: path}
    if path.is_dir() and (pairs := raw.pairs(path)):
        if "test" in pairs:  # the makers' own split
            del shares["test"]
        found = {name: path / name for pair in pairs.values() for name in pair}
        listed = {split: list(pair) for split, pair in pairs.items()}
        return "arrays", {"pairs": listed, "shares": shares}, found
    if path.is_dir() and archive.classes(path):
        if not request.size:
            raise DataError(f"{path}: a folder of pictures needs --size HEIGHTxWIDTH.")
        say(f"packing {len(archive.classes(path)):,} classes of pictures")
        reading = {"size": list(request.size), "rgb": request.rgb, "shares": shares}
        return "pictures", reading, _packed(path, packed)
    raise DataError(
        f"{path}: found {'nothing' if not path.exists() else 'no data set'}, expected a table "
        f"({', '.join(TABLES)}), a folder with a folder of pictures for each class, or a folder "
        "with inputs.npy and labels.npy or such IDX files."
    )


def _packed(path: Path, folder: Path) -> dict[str, Path]:
    """Write an archive for each class of pictures into a folder."""
    found = {archive.name_of(one): folder / f"{n}" for n, one in enumerate(archive.classes(path))}
    for one in archive.classes(path):
        archive.pack(one, found[archive.name_of(one)])
    return found


def _looked_at(
    request: Request,
    decoder: str,
    reading: dict[str, Any],
    paths: dict[str, Path],
    files: tuple[SourceFile, ...],
) -> Entry:
    """Return the entry of a trainable data set. Raises DataError with every problem."""
    texts = request.title or request.name, request.licence or "unknown", request.origin or "unknown"
    draft = Entry(request.name, *texts, decoder, (), (), {}, files, reading)
    problems = Problems()
    examples = READERS[decoder](draft, paths, problems)
    rows = examples.split(reading["shares"])
    _inspect(examples, rows, request.path.name, problems, unique="id" in reading)
    problems.refuse(request.name)
    counts = Counter(examples.labels)
    labels = tuple(sorted(counts, key=lambda label: (not label.isdecimal(), _value(label), label)))
    return dataclasses.replace(
        draft,
        shape=tuple(examples.inputs.shape[1:]),
        labels=labels,
        counts=tuple(counts[label] for label in labels),
        rows={split: len(rows[split]) for split in catalog.SPLITS},
    )


def _value(label: str) -> int:
    return int(label) if label.isdecimal() else 0


def _inspect(
    examples: Examples, rows: dict[str, Any], name: str, problems: Problems, *, unique: bool
) -> None:
    """Report problems across rows: classes, ids, the same input in two splits."""
    counts = Counter(examples.labels)
    if len(counts) < 2 and (counts or not problems):
        found = f"one class only ({next(iter(counts))})" if counts else "no rows"
        problems.add(name, f"has {found}, expected two classes or more")
    for label, count in sorted(counts.items()):
        if count < len(catalog.SPLITS):
            expected = f"expected {len(catalog.SPLITS)} or more, one for each split"
            problems.add(name, f"class {label} has {count} row{'s' * (count > 1)}, {expected}")
    split_of = {int(row): split for split in rows for row in rows[split]}
    first: dict[bytes, int] = {}
    ids: dict[bytes, int] = {}
    for row, content in enumerate(examples.contents):
        other, place = first.setdefault(content, row), examples.places[row]
        if split_of[other] != split_of[row]:
            there = f"{examples.places[other].rpartition(', ')[2]}, for {split_of[other]}"
            problems.add(place, f"for {split_of[row]}, is the same as {there}; remove one of them")
        same = ids.setdefault(examples.keys[row], row) if unique else row
        if same != row:
            problems.add(place, f"has the id of {examples.places[same].rpartition(', ')[2]}")


def _known(entry: Entry, folder: Path) -> bool:
    return (folder / f"{entry.name}.yaml").exists()


def _keep(
    entry: Entry,
    paths: dict[str, Path],
    store: Store,
    folder: Path,
    newer: bool,
    request: Request,
) -> None:
    """Put the files into the store, then the version into the catalog; or neither."""
    put: list[Path] = []
    try:
        for file in entry.files:
            if not store.has(file.sha256):
                put.append(store.put(paths[file.name], file.sha256))
        path = folder / f"{entry.name}.yaml"
        before = path.read_text() if newer else None
        text = _written(entry, before, request)
        catalog.parsed(path, text)  # refuses a file that a manual edit broke
        write_atomically(path, text.encode())
    except BaseException:
        for one in put:
            one.unlink(missing_ok=True)
        raise
    store.digests.save()


def _written(entry: Entry, before: str | None, request: Request) -> str:
    """Return the text of the catalog's file, with the new version on top."""
    version = {
        "version": entry.digest,
        "decoder": entry.decoder,
        "reading": entry.reading,
        "shape": list(entry.shape),
        "labels": list(entry.labels),
        "counts": list(entry.counts),
        "rows": entry.rows,
        "files": [
            {"name": file.name, "sha256": file.sha256, "size": file.size} for file in entry.files
        ],
    }
    if before is None:
        head = {"title": entry.title, "licence": entry.licence, "origin": entry.origin}
        return _yaml(head, flow=False) + "versions:\n" + _yaml([version])
    # What applies to this version alone goes into it; the rest of the file stays unchanged.
    said = {key: getattr(request, key) for key in ("title", "licence", "origin")}
    version |= {key: text for key, text in said.items() if text}
    mark = "\nversions:\n"
    if before.count(mark) != 1:
        raise DataError(f"catalog {entry.name}: line `versions:` not found; add it.")
    return before.replace(mark, mark + _yaml([version]))


def _yaml(value: Any, *, flow: bool | None = None) -> str:
    """Return readable YAML: flat collections in one line, unless ``flow`` is false."""
    text: str = yaml.safe_dump(
        value, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=100
    )
    return text
