"""Adding a data set of the team: checked completely, then stored and cataloged, or not at all."""

import dataclasses
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lockstep.data import catalog, raw, target
from lockstep.data.catalog import Entry, SourceFile
from lockstep.data.decode import READERS
from lockstep.data.problems import Problems
from lockstep.data.recognition import Request, Source, archives, recognised
from lockstep.data.split import Examples
from lockstep.data.store import Store
from lockstep.ground import yaml_text
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import DataError
from lockstep.ground.files import held, remove_abandoned, write_atomically, write_errors

__all__ = ["Request", "add", "read_as"]


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
            source = recognised(request, Path(packed), say)
            files = tuple(
                SourceFile(name, digest_of(path), (), path.stat().st_size)
                for name, path in source.paths.items()
            )
            entry = _looked_at(request, source, files)
            folder.mkdir(exist_ok=True)  # the first data set of a project
            with held(folder, say):
                known = catalog.versions(entry.name, folder) if _known(entry, folder) else []
                if there := [one for one in known if one.digest == entry.digest]:
                    return there[0], False
                _keep(entry, source.paths, store, folder, bool(known), request)
    return entry, True


def read_as(entry: Entry, path: Path) -> tuple[Examples, Problems]:
    """Read files outside the store as a version of the catalog is read."""
    problems = Problems()
    with tempfile.TemporaryDirectory() as packed:
        if entry.decoder == "pictures":
            paths = archives(path, entry.kind, Path(packed))
        elif entry.decoder == "arrays":
            pairs = raw.pairs(path)
            if entry.kind == "none":
                pairs = {split: names[:1] for split, names in pairs.items()}
            paths = {name: path / name for names in pairs.values() for name in names}
            entry = dataclasses.replace(entry, reading=entry.reading | {"pairs": pairs})
        elif path.is_dir():
            paths = {one.name: one for one in path.iterdir() if one.name[0] != "."}
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


def _looked_at(request: Request, source: Source, files: tuple[SourceFile, ...]) -> Entry:
    """Return the entry of a trainable data set. Raises DataError with every problem."""
    name, reading = request.path.name, source.reading
    texts = request.title or request.name, request.licence or "unknown", request.origin or "unknown"
    draft = Entry(request.name, *texts, source.decoder, (), (), {}, files, reading)
    problems = Problems()
    examples = READERS[source.decoder](draft, source.paths, problems)
    if draft.kind == "mask":
        masks = examples.target if examples.target is not None else ()
        classes, counts = target.classes_of(masks, request.classes, name, problems)
        answer = reading["target"] | {"values": list(classes)}
        reading, labels = reading | {"target": answer}, tuple(classes.values())
    else:
        labels = target.names_of(draft.kind, reading, examples)
        counts = target.counts_of(draft.kind, labels, examples)
    rows = examples.split(reading["shares"], by_class=draft.kind == "class")
    entry = dataclasses.replace(
        draft,
        shape=tuple(examples.inputs.shape[1:]),
        labels=labels,
        counts=counts,
        rows={split: len(rows[split]) for split in catalog.SPLITS},
        reading=reading,
    )
    target.inspect(entry, examples, name, problems)
    _inspect_blocks(entry, examples, rows, name, problems)
    if source.decoder != "windows" and not examples.times:  # of which many may be alike
        _inspect_rows(examples, rows, problems, unique="id" in reading)
    problems.refuse(request.name)
    return entry


def _inspect_blocks(
    entry: Entry, examples: Examples, rows: dict[str, Any], name: str, problems: Problems
) -> None:
    """Report splits that whole groups, or rows of one time, leave empty or without a class."""
    column = entry.reading.get("group") or entry.reading.get("time")
    if not column or problems:
        return
    values = len({*(examples.groups or examples.times)})
    for split, chosen in rows.items():
        if not len(chosen):
            problems.add(name, f"column {column} has {values} values, which leave none for {split}")
    if entry.kind == "class":
        learned = {examples.labels[row] for row in rows["train"]}
        for label in (one for one in entry.labels if one not in learned):
            problems.add(
                name, f"class {label} is in no row for training, as {column} divides the rows"
            )


def _inspect_rows(
    examples: Examples, rows: dict[str, Any], problems: Problems, *, unique: bool
) -> None:
    """Report the same input in two splits, and ids that are there twice."""
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
        before = path.read_text("utf-8") if newer else None
        text = _written(entry, before, request)
        catalog.parsed(path, text)  # refuses a file that a manual edit broke
        write_atomically(path, text.encode("utf-8"))
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
    return yaml_text.dump(value, default_flow_style=flow, width=100)
