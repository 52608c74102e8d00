"""The verb on data sets: list, show, fetch, add, verify, push, pull, diff."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.cli.verbs import Verbs
from lockstep.ground.console import show
from lockstep.ground.errors import SettingError
from lockstep.ground.home import here

if TYPE_CHECKING:
    from lockstep.data.catalog import Entry
    from lockstep.data.dataset import Dataset
    from lockstep.data.difference import Difference
    from lockstep.data.transfer import Done

_SHOWN = 10


def add_to(verbs: Verbs) -> None:
    """Add data with its actions."""
    verb = verbs.add(data, json=False)
    actions = verb.add_subparsers(required=True)

    def action(function: Any, name: str) -> argparse.ArgumentParser:
        text = (function.__doc__ or "").partition("\n")[0]
        added = actions.add_parser(name, help=text, description=text)
        added.set_defaults(action=function)
        added.add_argument("--json", action="store_true", help="print JSON for a script")
        return added

    action(list_, "list")
    viewed = action(show_, "show")
    viewed.add_argument("name", metavar="NAME[@VERSION]")
    viewed.add_argument("--page", type=Path, metavar="FILE", help="also write a page with examples")
    action(fetch, "fetch").add_argument("name", metavar="NAME[@VERSION]")
    _add_add(action(add, "add"))
    action(verify, "verify").add_argument("name", nargs="?", metavar="NAME[@VERSION]")
    for function, name, where in ((push, "push", "--to"), (pull, "pull", "--from")):
        moved = action(function, name)
        moved.add_argument("name", nargs="?", metavar="NAME[@VERSION]")
        text = "a folder or s3://BUCKET/PREFIX (default: LOCKSTEP_DATA_REMOTE)"
        moved.add_argument(where, dest="remote", metavar="STORAGE", help=text)
    compared = action(diff, "diff")
    compared.add_argument("a", metavar="A", help="NAME[@VERSION], or a path")
    compared.add_argument("b", metavar="B", help="NAME[@VERSION], or a path")


def _add_add(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("path", metavar="PATH", type=Path)
    verb.add_argument("--name", required=True)
    many: dict[str, Any] = {"action": "append", "default": [], "metavar": "COLUMN"}
    verb.add_argument("--text", help="of a table: text to learn from; may be repeated", **many)
    verb.add_argument("--numbers", help="of a table: numbers, likewise", **many)
    answers = {
        "--label": "of a table: the label to learn; repeated: labels, each in a column of 0 and 1",
        "--target": "of a table: the number to learn; may be repeated",
    }
    for option, text in answers.items():
        verb.add_argument(option, help=text, **many)
    text = "of a table: several labels to learn, in one column"
    verb.add_argument("--labels-from", metavar="COLUMN", help=text)
    text = "what stands between those labels (default: ;)"
    verb.add_argument("--separator", metavar="TEXT", default=";", help=text)
    verb.add_argument("--no-target", action="store_true", help="there is nothing to answer with")
    text = "names of the values of masks, as 0=ground,255=roof, or of the columns of labels.npy"
    verb.add_argument("--classes", type=names_by_value, default={}, metavar="NAMES", help=text)
    verb.add_argument(
        "--id", metavar="COLUMN", help="of a table: the id that a row keeps when it changes"
    )
    text = "of a table: rows with one value in it stay in one split, as those of a patient"
    verb.add_argument("--group", metavar="COLUMN", help=text)
    text = "of a table: the latest rows are for test, those before them for validation"
    verb.add_argument("--time", metavar="COLUMN", help=text)
    verb.add_argument(
        "--size", type=height_x_width, metavar="HxW", help="pictures are scaled to it"
    )
    verb.add_argument("--rgb", action="store_true", help="pictures in colour (default: grey)")
    text = "texts are cut into examples of so many bytes"
    verb.add_argument("--window", type=positive, metavar="BYTES", help=text)
    verb.add_argument("--validation", type=float, default=0.1, metavar="SHARE")
    verb.add_argument("--test", type=float, default=0.1, metavar="SHARE")
    for name in ("--title", "--licence", "--origin"):
        verb.add_argument(name, metavar="TEXT")


def height_x_width(text: str) -> tuple[int, int]:
    """The size of a picture, as 28x28, for argparse."""
    height, width = (int(side) for side in text.split("x"))
    if min(height, width) < 1:
        raise ValueError
    return height, width


def names_by_value(text: str) -> dict[int, str]:
    """Names of values, as ``0=ground,255=roof`` or in their order ``ground,roof``, for argparse."""
    found: dict[int, str] = {}
    for number, part in enumerate(text.split(",")):
        value, equals, name = part.rpartition("=")
        key = int(value) if equals else number
        if not name.strip() or key in found or name.strip() in found.values():
            raise ValueError
        found[key] = name.strip()
    return found


def positive(text: str) -> int:
    """A number of 1 or more, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def data(options: argparse.Namespace) -> int:
    """Data sets: list, show, fetch, add, verify, push, pull, diff."""
    return int(options.action(options) or 0)


def list_(options: argparse.Namespace) -> None:
    """List the versions of all data sets, and which are on this machine."""
    from lockstep.data.fetch import located
    from lockstep.data.store import Store
    from lockstep.ground.console import table

    store = Store(_data())
    rows = []
    for entry in _entries(None):
        here = len(located(entry, store)) == len(entry.files)
        rows.append(_facts(entry) | {"here": here})
    store.digests.save()
    if options.json:
        show(json.dumps(rows, indent=2))
        return
    head = ["data", "rows", "target", "labels", "MB", "decoder", "here", "licence"]
    table(
        head,
        [
            [
                row["data"],
                f"{sum(row['rows'].values()):,}",
                row["kind"],
                str(len(row["labels"])),
                f"{row['bytes'] / 1e6:.1f}",
                row["decoder"],
                "yes" if row["here"] else "no",
                row["licence"],
            ]
            for row in rows
        ],
    )


def show_(options: argparse.Namespace) -> None:
    """Show what a data set has: labels by split, ranges of values, lengths, examples."""
    from lockstep.data import overview
    from lockstep.ground import console
    from lockstep.ground.files import write_atomically

    entry, dataset = _opened(options.name)
    view = overview.overview(entry, dataset)
    if options.page:
        shown = overview.examples(dataset, view.form)
        write_atomically(options.page, overview.page(view, shown).encode())
    if options.json:
        show(json.dumps(view.json(), indent=2))
        return
    rows = ", ".join(f"{count:,} {split}" for split, count in view.rows.items())
    show(f"{view.data}: {view.title} ({view.licence})")
    show(f"each {view.example} of shape {view.shape}; target: {view.kind}; {rows}")
    if view.lengths:
        lengths = ", ".join(f"{name} {count:,}" for name, count in view.lengths.items())
        show(f"bytes of a text: {lengths}")
    if view.labels:
        unit = "pixels" if view.kind == "mask" else "examples"
        total = {label: sum(counts.values()) for label, counts in view.labels.items()}
        # An example may have several labels, or none.
        whole = sum((view.rows if view.kind == "labels" else total).values()) or 1
        console.table(
            ["label", *view.rows, unit, "share"],
            [
                [
                    label,
                    *(f"{count:,}" for count in counts.values()),
                    f"{total[label]:,}",
                    f"{100 * total[label] / whole:.1f} %",
                ]
                for label, counts in view.labels.items()
            ],
        )
    if view.values:
        console.table(
            ["values", "lowest", "highest", "mean", "deviation"],
            [
                [row.name, *(f"{x:.6g}" for x in (row.low, row.high, row.mean, row.deviation))]
                for row in view.values
            ],
        )
    if options.page:
        show(f"page: {options.page}")


def fetch(options: argparse.Namespace) -> None:
    """Download a data set to this machine and prepare its arrays."""
    entry, dataset = _opened(options.name)
    done = _facts(entry) | {"arrays": dataset.digest}
    rows = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    show(json.dumps(done) if options.json else f"{entry.reference} is ready: {rows}")


def _opened(name: str) -> "tuple[Entry, Dataset]":
    """Return a data set of the catalog with its arrays, fetched where they are not here."""
    from lockstep.data import arrays, catalog
    from lockstep.data.fetch import fetch as download
    from lockstep.ground import console

    entry, folder, watch = catalog.entry(name), _data(), console.watch()
    dataset = arrays.open_dataset(
        entry,
        folder / "arrays",
        lambda missing: download(missing, folder, watch.say, watch.bar),
        watch.say,
    )
    return entry, dataset


def add(options: argparse.Namespace) -> None:
    """Add your own data set, or a new version of it, to the store and the catalog."""
    from lockstep.data import catalog
    from lockstep.data.add import Request
    from lockstep.data.add import add as put
    from lockstep.ground import console

    fields = {name: getattr(options, name) for name in Request.__dataclass_fields__}
    lists = {name: tuple(fields[name]) for name in ("text", "numbers", "label", "target")}
    request = Request(**{name: _as_utf8(value) for name, value in (fields | lists).items()})
    entry, new = put(request, _data(), here().catalog, console.watch().say)
    path = catalog.file_of(entry.name)
    if options.json:
        show(json.dumps(_facts(entry) | {"new": new, "file": str(path)}))
        return
    if not new:
        show(f"{entry.reference} already exists; nothing was changed")
        return
    for label, count in zip(entry.labels, entry.counts, strict=False):
        show(f"{count:>10,}  {label}")
    if not entry.counts:
        names = f": {', '.join(entry.labels)}" if entry.labels else ""
        show(f"target {entry.kind}{names}")
    rows = ", ".join(f"{count:,} {split}" for split, count in entry.rows.items())
    show(f"added {entry.reference}: {rows}")
    show(f"commit {path}; share its files: invoke data push {entry.name} --to STORAGE")


def _as_utf8(value: Any) -> Any:
    """Words of the command line in UTF-8, whatever the locale says; paths stay as they are."""
    if isinstance(value, tuple):
        return tuple(map(_as_utf8, value))
    return os.fsencode(value).decode("utf-8", "replace") if isinstance(value, str) else value


def verify(options: argparse.Namespace) -> int:
    """Hash all copies on this machine again; exit 1 if one is altered."""
    from lockstep.data import transfer

    done, altered = transfer.verify(_entries(options.name), _data(), here().catalog)
    if options.json:
        found = {"good": done.there, "missing": done.missing, "altered": altered}
        show(json.dumps(found, indent=2))
    else:
        show(f"{len(done.there)} good, {len(done.missing)} not here, {len(altered)} altered")
        _print_some("not here", done.missing)
        _print_some("altered", altered)
    return 1 if altered else 0


def push(options: argparse.Namespace) -> int:
    """Upload data sets to a shared storage; without a name, all that have no mirror."""
    from lockstep.data import transfer
    from lockstep.ground import console

    watch = console.watch()
    entries = _entries(options.name, own=True)
    done = transfer.push(entries, _data(), _storage(options, "--to"), watch.say, watch.bar)
    _print_done(options, done, "sent", "not on this machine")
    return 1 if options.name and done.missing else 0


def pull(options: argparse.Namespace) -> None:
    """Download data sets from a shared storage; without a name, the newest with no mirror."""
    from lockstep.data import transfer
    from lockstep.ground import console

    watch = console.watch()
    entries = _entries(options.name, own=True, newest=True)
    done = transfer.pull(entries, _data(), _storage(options, "--from"), watch.say, watch.bar)
    _print_done(options, done, "brought", "")


def diff(options: argparse.Namespace) -> int:
    """Compare two versions, or a path and a version, row by row; exit 1 if they differ."""
    from lockstep.data.difference import difference
    from lockstep.data.fetch import fetch as download
    from lockstep.ground import console

    folder, watch = _data(), console.watch()
    found = difference(
        options.a,
        options.b,
        here().catalog,
        lambda missing: download(missing, folder, watch.say, watch.bar),
    )
    if options.json:
        show(json.dumps(found.as_dict(), indent=2))
    else:
        _print_difference(found)
    return 0 if found.same else 1


def _data() -> Path:
    from lockstep.ground.place import Place

    return Place.default().data


def _entries(reference: str | None, *, own: bool = False, newest: bool = False) -> "list[Entry]":
    """The version that is meant; without a name all, or all whose files have no other address."""
    from lockstep.data import catalog

    if reference:
        return [catalog.entry(reference)]
    found = [catalog.versions(name)[: 1 if newest else None] for name in catalog.names()]
    entries = [entry for versions in found for entry in versions]
    return [
        entry for entry in entries if not own or not all(file.addresses for file in entry.files)
    ]


def _storage(options: argparse.Namespace, option: str) -> Any:
    from lockstep.data.fetch import REMOTE
    from lockstep.ground.storage import open_storage

    if address := options.remote or os.environ.get(REMOTE):
        return open_storage(address)
    raise SettingError(f"{option}: found no storage, expected a folder or s3://BUCKET/PREFIX there "
                       f"or in {REMOTE}.")  # fmt: skip


def _facts(entry: "Entry") -> dict[str, Any]:
    return {
        "data": entry.reference,
        "version": entry.digest,
        "title": entry.title,
        "licence": entry.licence,
        "origin": entry.origin,
        "decoder": entry.decoder,
        "kind": entry.kind,
        "reading": entry.reading,
        "shape": entry.shape,
        "labels": dict(zip(entry.labels, entry.counts, strict=False)) or list(entry.labels),
        "rows": entry.rows,
        "bytes": sum(file.size or 0 for file in entry.files),
        "files": {file.name: file.sha256 for file in entry.files},
    }


def _print_done(options: argparse.Namespace, done: "Done", sent: str, missing: str) -> None:
    if options.json:
        found = {sent: done.sent, "there": done.there, "missing": done.missing}
        show(json.dumps(found | {"bytes": done.bytes}))
        return
    size = f"{done.bytes / 1e6:.1f} MB"
    verb = {"sent": "uploaded", "brought": "downloaded"}[sent]
    show(f"{len(done.sent)} files {verb} ({size}), {len(done.there)} already there")
    _print_some(missing, done.missing)


def _print_some(title: str, lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        show(f"{title}: {line}")
    if len(lines) > _SHOWN:
        show(f"{title}: and {len(lines) - _SHOWN:,} more (--json names all)")


def _print_difference(found: "Difference") -> None:
    from lockstep.ground.console import table

    if found.same:
        show(f"{found.a} and {found.b} have the same rows")
        return
    show(f"A {found.a}, B {found.b}")
    _print_some("removed", found.removed)
    _print_some("added", found.added)
    _print_some("relabelled", [f"{place}: {a} -> {b}" for place, a, b in found.relabelled])
    _print_some("changed", found.changed)
    _print_some("moved", [f"{place}: {a} -> {b}" for place, a, b in found.moved])
    rows = [[label, f"{a:,}", f"{b:,}", f"{b - a:+,}"] for label, (a, b) in found.counts.items()]
    total = [sum(pair[side] for pair in found.counts.values()) for side in (0, 1)]
    rows.append(["all", f"{total[0]:,}", f"{total[1]:,}", f"{total[1] - total[0]:+,}"])
    table(["label", "A", "B", ""], rows)
