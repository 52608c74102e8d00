"""What a data set is to be answered with, by kind: names, arrays, and what is wrong with them.

``reading.target`` of a catalog entry has the kind and what belongs to it; without it, an example
has one class. See ``lockstep.program.Kind``.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.catalog import SPLITS, Entry
from lockstep.data.problems import Problems
from lockstep.data.split import Examples
from lockstep.program import Kind

_MOST_VALUES = 64  # of masks whose classes have no names: more are no classes


def shape_of(entry: Entry) -> tuple[int, ...]:
    """Return the shape of one target."""
    kind, target = entry.kind, entry.reading.get("target", {})
    if kind == "class":
        return ()
    if kind == "none":
        return (0,)
    if kind == "mask":
        return tuple(target.get("shape", entry.shape[:2]))
    return tuple(target.get("shape", (len(entry.labels),)))


def names_of(kind: Kind, reading: dict[str, Any], examples: Examples) -> tuple[str, ...]:
    """Return the names of what a model answers with: the catalog's labels. Not for masks."""
    target = reading.get("target", {})
    if kind == "class":
        return ordered(set(examples.labels))
    if kind == "labels" and "columns" not in target:
        return ordered({one for text in examples.labels for one in labels_of(kind, text)})
    return tuple(target.get("columns", ()))


def counts_of(kind: Kind, labels: tuple[str, ...], examples: Examples) -> tuple[int, ...]:
    """Return the number of examples that have each label; empty for numbers. Not for masks."""
    if kind not in ("class", "labels"):
        return ()
    counts = Counter(one for text in examples.labels for one in labels_of(kind, text))
    return tuple(counts[label] for label in labels)


def array_of(entry: Entry, examples: Examples, problems: Problems) -> NDArray[Any]:
    """Return the targets (rows, ...) as training gets them; unknown labels are reported."""
    kind, target = entry.kind, examples.target
    if kind in ("class", "labels"):
        number_of = {label: number for number, label in enumerate(entry.labels)}
        known = ", ".join(entry.labels)
        found = []
        for place, text in zip(examples.places, examples.labels, strict=True):
            for label in labels_of(kind, text):
                if label not in number_of:
                    problems.add(place, f"label {label!r} is not in the catalog ({known})")
            found.append([number_of.get(label, 0) for label in labels_of(kind, text)])
        if kind == "class":
            return np.array(found, np.int64).reshape(-1)
        several = np.zeros((len(found), len(entry.labels)), np.uint8)
        for row, chosen in enumerate(found):
            several[row, chosen] = 1
        return several
    if target is None:
        return np.zeros((len(examples.inputs), 0), np.uint8)
    if kind != "mask":
        return target
    values = np.array(entry.reading["target"]["values"])
    for one in np.flatnonzero(~np.isin(target, values).reshape(len(target), -1).all(1)):
        unknown = sorted({*np.unique(target[one]).tolist()} - {*values.tolist()})
        problems.add(examples.places[one], f"mask has value {unknown[0]}, which has no class")
    numbers = np.searchsorted(values, target)
    return numbers.astype(np.uint8 if len(values) <= 256 else np.int64)


def text_of(entry: Entry, target: NDArray[Any]) -> str:
    """Return the text for people that stands for one target, as training gets it."""
    if entry.kind == "class":
        return entry.labels[int(target)]
    if entry.kind == "labels":
        return "\n".join(entry.labels[number] for number in np.flatnonzero(target))
    if entry.kind == "numbers":
        return "\n".join(f"{number:g}" for number in target.ravel()[:8].tolist())
    return hashlib.sha256(target.tobytes()).hexdigest()[:8] if entry.kind == "mask" else ""


def classes_of(
    target: Iterable[NDArray[Any]], classes: dict[int, str], name: str, problems: Problems
) -> tuple[dict[int, str], tuple[int, ...]]:
    """Return the names of the values of masks, in their order, and the examples that have each.

    ``classes`` is what the user said; without it each value is its own name.
    """
    counts: Counter[int] = Counter()
    for one in target:
        counts.update(np.unique(one).tolist())
    values = sorted(counts)
    if not classes and len(values) > _MOST_VALUES:
        problems.add(
            name,
            f"has {len(values)} values, expected a few, one for each class; name them with "
            "--classes, or save the masks without smoothing",
        )
    elif classes and (unknown := [value for value in values if value not in classes]):
        known = ", ".join(f"{value}={label}" for value, label in classes.items())
        problems.add(
            name,
            f"has value{'s' * (len(unknown) > 1)} {', '.join(map(str, unknown[:8]))}, which "
            f"--classes does not name (it has {known})",
        )
    names = dict(sorted(classes.items())) if classes else {value: str(value) for value in values}
    return names, tuple(counts[value] for value in names)


def inspect(entry: Entry, examples: Examples, name: str, problems: Problems) -> None:
    """Report targets of which nothing can be learned, and labels that print alike."""
    rows = len(examples.inputs)
    if rows < len(SPLITS) and (rows or not problems) and entry.kind != "class":
        problems.add(name, f"has {rows} rows, expected {len(SPLITS)} or more, one for each split")
    if entry.kind in ("class", "labels"):
        look_alikes(entry.labels, name, problems)
    if entry.kind == "class":
        _inspect_classes(entry, name, problems)
    elif entry.kind == "labels":
        _inspect_labels(entry, rows, name, problems)
    elif entry.kind == "numbers" and examples.target is not None and rows:
        columns = examples.target.reshape(rows, -1)
        for number in np.flatnonzero((columns == columns[0]).all(0) & (rows > 1)):
            title = f"column {entry.labels[number]}" if entry.labels else f"target {number + 1}"
            problems.add(
                name, f"{title} is {columns[0, number]:g} in all rows, expected several values"
            )
            break
    elif entry.kind == "mask":
        if len(entry.labels) < 2 and not problems:
            problems.add(name, "has one class only, expected two or more in the masks")
        for label, count in zip(entry.labels, entry.counts, strict=False):
            if count == 0:
                problems.add(name, f"class {label} is in no mask; leave it out of --classes")


def _inspect_classes(entry: Entry, name: str, problems: Problems) -> None:
    if len(entry.labels) < 2 and (entry.labels or not problems):
        found = f"one class only ({entry.labels[0]})" if entry.labels else "no rows"
        problems.add(name, f"has {found}, expected two classes or more")
    for label, count in sorted(zip(entry.labels, entry.counts, strict=True)):
        if count < len(SPLITS):
            expected = f"expected {len(SPLITS)} or more, one for each split"
            problems.add(name, f"class {label} has {count} row{'s' * (count > 1)}, {expected}")


def _inspect_labels(entry: Entry, rows: int, name: str, problems: Problems) -> None:
    if not entry.labels and not problems:
        problems.add(name, "has no label in any row, expected some")
    for label, count in zip(entry.labels, entry.counts, strict=True):
        if count in (0, rows) and not problems:
            which = "every row" if count else "no row"
            problems.add(name, f"label {label} is on {which}, expected some with and some without")


def look_alikes(labels: Iterable[str], name: str, problems: Problems) -> None:
    """Report labels that people cannot tell apart: spaces, or two encodings of one letter."""
    first: dict[str, str] = {}
    for label in labels:
        other = first.setdefault(_seen(label), label)
        if other != label:
            composed = [unicodedata.normalize("NFC", one) for one in (other, label)]
            how = (
                "in how letters are encoded (NFC, NFD)"
                if composed[0] == composed[1]
                else ("in spaces or characters that cannot be seen")
            )
            problems.add(name, f"labels {other!a} and {label!a} differ only {how}; make them one")


def _seen(label: str) -> str:
    """A label as people see it."""
    visible = "".join(c for c in label if unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).split())


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in the order of the catalog: numbers by value, then the others by letter."""
    return tuple(sorted(labels, key=lambda one: (not one.isdecimal(), _value(one), one)))


def labels_of(kind: Kind, text: str) -> list[str]:
    """Return the labels of an example, one or several, from the text that stands for them."""
    if kind == "class":
        return [text]
    return text.split("\n") if text else []


def _value(label: str) -> int:
    return int(label) if label.isdecimal() else 0
