"""The difference between two versions of a data set, or any two data sets."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from lockstep.data import catalog, target
from lockstep.data.add import read_as
from lockstep.data.catalog import Entry
from lockstep.data.decode import READERS, decode
from lockstep.data.problems import Problems
from lockstep.data.split import Examples
from lockstep.ground.errors import DataError
from lockstep.program import Kind

Fetch = Callable[[Entry], dict[str, Path]]


@dataclass(frozen=True)
class Difference:
    """Rows by their places (files by their paths); ``counts`` are rows of a label before and after,
    empty where targets are no labels.

    ``relabelled`` and ``changed`` name the place in B, what it was and what it is; ``moved`` are
    rows that both have in another split: their place in B, the split before and after.
    """

    a: str
    b: str
    added: list[str]
    removed: list[str]
    relabelled: list[tuple[str, str, str]]
    changed: list[str]
    moved: list[tuple[str, str, str]]
    counts: dict[str, tuple[int, int]]

    @property
    def same(self) -> bool:
        """Whether no row differs."""
        rows = self.added or self.removed or self.relabelled or self.changed or self.moved
        return not rows

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self)


def difference(a: str, b: str, folder: Path, fetch: Fetch) -> Difference:
    """Compare versions of the catalog, or files as they lie on the disk with a version.

    Rows are the same if their ids are, where both sides have ids, else if their content is. Raises
    DataError for an unknown name, and with all that is wrong with files that cannot be read.
    """
    on_disk = [Path(one).exists() and one not in catalog.names(folder) for one in (a, b)]
    if all(on_disk):
        raise DataError(f"{a}, {b}: found two paths, expected one version of the catalog at least.")
    first = catalog.entry(b if on_disk[0] else a, folder)
    entries = first, first if on_disk[1] else catalog.entry(b, folder)
    sides, names = [], []
    for given, here, entry in zip((a, b), on_disk, entries, strict=True):
        sides.append(_side(entry, Path(given) if here else None, fetch))
        names.append(given if here else entry.reference)
    by_id = all(entry.decoder == "table" and "id" in entry.reading for entry in entries)
    return _between(names, sides, by_id)


@dataclass(frozen=True)
class _Side:
    examples: Examples
    split_of: dict[int, str]
    kind: Kind

    def counts(self) -> Counter[str]:
        """The rows that have each label, of which there may be several; empty without labels."""
        if self.kind not in ("class", "labels"):
            return Counter()
        return Counter(
            label for text in self.examples.labels for label in target.labels_of(self.kind, text)
        )

    def rows(self, by_id: bool) -> dict[bytes, list[int]]:
        """The rows of each key, in their order: there may be several of one content."""
        found: dict[bytes, list[int]] = defaultdict(list)
        for row, key in enumerate(self.examples.keys if by_id else self.examples.contents):
            found[key].append(row)
        return found


def _side(entry: Entry, path: Path | None, fetch: Fetch) -> _Side:
    problems = Problems()
    if entry.decoder not in READERS:
        if path:
            raise DataError(f"{path}: files of {entry.name} can be compared by version only.")
        return _decoded(entry, fetch(entry))
    if path:
        examples, problems = read_as(entry, path)
    else:
        examples = READERS[entry.decoder](entry, fetch(entry), problems)
    problems.refuse(str(path or entry.reference))
    rows = examples.split(entry.reading["shares"], by_class=entry.kind == "class")
    split_of = {int(row): split for split in rows for row in rows[split]}
    return _Side(examples, split_of, entry.kind)


def _decoded(entry: Entry, paths: dict[str, Path]) -> _Side:
    """A data set whose decoder has no places: rows are counted within their split."""
    labels, contents, places = list[str](), list[bytes](), list[str]()
    split_of: dict[int, str] = {}
    splits = decode(entry, paths)
    for split, (inputs, answers) in splits.items():
        for row, (values, answer) in enumerate(zip(inputs, answers, strict=True)):
            split_of[len(labels)] = split
            labels.append(target.text_of(entry, answer))
            contents.append(sha256(values.tobytes()).digest())
            places.append(f"{split}, row {row + 1}")
    examples = Examples(splits["train"][0], labels, contents, contents, places)
    return _Side(examples, split_of, entry.kind)


def _between(names: list[str], sides: list[_Side], by_id: bool) -> Difference:
    a, b = sides
    old, new = a.rows(by_id), b.rows(by_id)
    added, removed, relabelled, changed, moved = [], [], [], [], []
    for key in {**old, **new}:
        before, after = old.get(key, []), new.get(key, [])
        removed += [a.examples.places[row] for row in before[len(after) :]]
        added += [b.examples.places[row] for row in after[len(before) :]]
        for one, two in zip(before, after, strict=False):
            place = b.examples.places[two]
            labels = a.examples.labels[one], b.examples.labels[two]
            if labels[0] != labels[1]:
                old_text, new_text = (label.replace("\n", "; ") for label in labels)
                relabelled.append((place, old_text, new_text))
            if a.examples.contents[one] != b.examples.contents[two]:
                changed.append(place)
            if a.split_of[one] != b.split_of[two]:
                moved.append((place, a.split_of[one], b.split_of[two]))
    counts = [side.counts() for side in sides]
    labels_of = _ordered(counts)
    rows = {label: (counts[0][label], counts[1][label]) for label in labels_of}
    return Difference(names[0], names[1], added, removed, relabelled, changed, moved, rows)


def _ordered(counts: Iterable[Counter[str]]) -> list[str]:
    return sorted({label for count in counts for label in count})
