"""A data set at a glance: what its examples are, and how they spread over labels and splits."""

import base64
import codecs
import html
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from string import Template
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lockstep.data.catalog import SPLITS, Entry
from lockstep.data.dataset import Dataset, Split

Form = Literal["picture", "text", "numbers", "tensor"]

_BLOCK = 4096  # rows that are in memory at a time
_EXAMPLES = 24
_CONTINUATION = bytes(range(0x80, 0xC0))  # of a character that began before
_MOST_LABELS = 200  # that a page shows


@dataclass(frozen=True)
class Values:
    """Numbers of a column, or of all inputs: smallest, largest, mean and standard deviation."""

    name: str
    low: float
    high: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Overview:
    """Facts of a data set. ``labels`` counts the examples of each, by split."""

    data: str
    title: str
    licence: str
    origin: str
    form: Form
    shape: tuple[int, ...]
    kind: str
    rows: dict[str, int]
    labels: dict[str, dict[str, int]]
    values: list[Values]
    lengths: dict[str, float]

    @property
    def example(self) -> str:
        """What an example is, in words."""
        return {"numbers": "a row of numbers"}.get(self.form, f"a {self.form}")

    def json(self) -> dict[str, Any]:
        """Return the facts as JSON's types."""
        return asdict(self)


def overview(entry: Entry, dataset: Dataset) -> Overview:
    """Look at all examples of a data set, in bounded memory."""
    form = form_of(dataset)
    train = dataset.splits["train"]
    values = [_values(dataset, name, "inputs", n) for n, name in enumerate(dataset.columns)]
    if form in ("picture", "tensor"):
        values = [_values(dataset, "inputs", "inputs")]
    if dataset.kind == "numbers":
        values += [_values(dataset, name, "target", n) for n, name in enumerate(dataset.labels)]
    return Overview(
        data=entry.reference,
        title=entry.title,
        licence=entry.licence,
        origin=entry.origin,
        form=form,
        shape=tuple(train.inputs.shape[1:]),
        kind=dataset.kind,
        rows={name: len(dataset.splits[name]) for name in SPLITS},
        labels=_labels(dataset),
        values=values,
        lengths=_lengths(dataset) if form == "text" else {},
    )


def form_of(dataset: Dataset) -> Form:
    """Return what people see in an example: a picture, a text, a row of numbers or a tensor."""
    inputs = dataset.splits["train"].inputs
    if dataset.columns:
        return "numbers"
    if inputs.dtype == np.uint8 and inputs.ndim in (3, 4) and inputs.shape[3:] in ((), (3,)):
        return "picture"
    if inputs.dtype == np.uint8 and inputs.ndim == 2:
        return "text" if all(_is_text(bytes(row)) for row in inputs[:_EXAMPLES]) else "tensor"
    return "tensor"


def _is_text(row: bytes) -> bool:
    """Whether bytes are UTF-8; a window may cut a character at its edges."""
    rest = row.rstrip(b"\0").lstrip(_CONTINUATION)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(rest)
    except UnicodeDecodeError:
        return False
    return len(row.rstrip(b"\0")) - len(rest) < 4


def _blocks(dataset: Dataset, split: str = "") -> Iterator[Split]:
    for name in [split] if split else SPLITS:
        rows = dataset.splits[name]
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            yield Split(np.asarray(rows.inputs[part]), np.asarray(rows.target[part]))


def _values(
    dataset: Dataset, name: str, field: Literal["inputs", "target"], column: int | None = None
) -> Values:
    """Look at a column of the inputs or targets, or at all their numbers."""
    low, high, count, total, squares = np.inf, -np.inf, 0, 0.0, 0.0
    for rows in _blocks(dataset):
        block = getattr(rows, field)
        numbers = np.asarray(block if column is None else block[:, column], np.float64)
        low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
        count, total = count + numbers.size, total + float(numbers.sum())
        squares += float((numbers**2).sum())
    mean = total / count
    return Values(name, low, high, mean, max(squares / count - mean**2, 0.0) ** 0.5)


def _labels(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Count the examples of each label; of masks, their pixels."""
    if dataset.kind in ("numbers", "none"):
        return {}
    counts = {label: dict.fromkeys(SPLITS, 0) for label in dataset.labels}
    for split in SPLITS:
        for rows in _blocks(dataset, split):
            if dataset.kind == "labels":
                found = (rows.target > 0).sum(axis=0)
            else:
                found = np.bincount(rows.target.ravel(), minlength=len(dataset.labels))
            for label, count in zip(dataset.labels, found.tolist(), strict=False):
                counts[label][split] += count
    return counts


def _lengths(dataset: Dataset) -> dict[str, float]:
    width = dataset.splits["train"].inputs.shape[1]
    counts = np.zeros(width + 1, np.int64)
    for rows in _blocks(dataset):
        used = rows.inputs[:, ::-1] != 0
        lengths = np.where(used.any(axis=1), width - used.argmax(axis=1), 0)
        counts += np.bincount(lengths, minlength=width + 1)
    places = np.cumsum(counts)
    parts = {"shortest": 0.0, "median": 0.5, "nine of ten": 0.9, "longest": 1.0}
    return {
        name: int(np.searchsorted(places, max(1, share * places[-1])))
        for name, share in parts.items()
    }


def examples(dataset: Dataset, form: Form, most: int = _EXAMPLES) -> list[tuple[str, Any]]:
    """Return some training examples, of each class alike: what each is answered with, and it."""
    part = dataset.splits["train"].first(most)
    return [
        (_answer(dataset, target), _shown(dataset, form, example))
        for example, target in zip(part.inputs, part.target, strict=True)
    ]


def _answer(dataset: Dataset, target: NDArray[Any]) -> str:
    if dataset.kind == "class":
        return dataset.labels[int(target)]
    if dataset.kind == "labels":
        return ", ".join(
            name for name, here in zip(dataset.labels, target.tolist(), strict=True) if here
        )
    if dataset.kind == "numbers":
        return ", ".join(
            f"{name} {value:g}" for name, value in zip(dataset.labels, target.tolist(), strict=True)
        )
    return ""


def _shown(dataset: Dataset, form: Form, example: NDArray[Any]) -> Any:
    if form == "picture":
        return example
    if form == "text":
        return bytes(example).rstrip(b"\0").decode(errors="replace")
    if form == "numbers":
        return ", ".join(
            f"{name} {value:g}"
            for name, value in zip(dataset.columns, example.tolist(), strict=True)
        )
    return " ".join(f"{value:g}" for value in example.ravel()[:64].tolist())


def page(view: Overview, shown: list[tuple[str, Any]]) -> str:
    """Return an HTML page of a data set that needs nothing else."""
    rows = ", ".join(f"{count:,} {split}" for split, count in view.rows.items())
    facts = f"Each {view.example} of shape {view.shape}; target: {view.kind}; {rows}."
    if view.lengths:
        lengths = ", ".join(f"{name} {count:,}" for name, count in view.lengths.items())
        facts += f" Bytes of a text: {lengths}."
    brightest = max((int(x.max()) for _, x in shown if view.form == "picture"), default=0)
    return _PAGE.substitute(
        data=html.escape(view.data),
        title=html.escape(view.title),
        origin=html.escape(f"{view.origin}, licence: {view.licence}"),
        facts=html.escape(facts),
        tables=_label_table(view) + _value_table(view.values),
        examples="".join(
            f"<figure>{_figure(view.form, example, brightest)}"
            f"<figcaption>{html.escape(answer)}</figcaption></figure>"
            for answer, example in shown
        ),
    )


def _label_table(view: Overview) -> str:
    if not view.labels:
        return ""
    total = {label: sum(counts.values()) for label, counts in view.labels.items()}
    most = max(total.values()) or 1
    lines = []
    for label, counts in [*view.labels.items()][:_MOST_LABELS]:
        cells = "".join(f"<td>{count:,}</td>" for count in counts.values())
        width = 100 * total[label] / most
        bar = f'<td class="bar"><i style="width:{width:.1f}%"></i></td>'
        lines.append(f"<tr><th>{html.escape(label)}</th>{cells}{bar}</tr>")
    title = "Pixels of each label" if view.kind == "mask" else "Examples of each label"
    if len(total) > _MOST_LABELS:
        title += f", the first {_MOST_LABELS} of {len(total):,}"
    head = "".join(f"<th>{split}</th>" for split in view.rows)
    return f"<h2>{title}</h2><table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _value_table(values: list[Values]) -> str:
    if not values:
        return ""
    lines = []
    for row in values:
        numbers = (row.low, row.high, row.mean, row.deviation)
        cells = "".join(f"<td>{number:.6g}</td>" for number in numbers)
        lines.append(f"<tr><th>{html.escape(row.name)}</th>{cells}</tr>")
    head = "<th>lowest</th><th>highest</th><th>mean</th><th>deviation</th>"
    return f"<h2>Values</h2><table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _figure(form: Form, example: Any, brightest: int) -> str:
    if form != "picture":
        return f"<pre>{html.escape(example[:600])}</pre>"
    from lockstep.ground import pictures  # loads torch, which the terminal's view needs not

    # Pictures of few shades, such as 0 to 16, become as bright as they can be.
    scale = 255 // brightest if 0 < brightest < 128 else 1
    file = io.BytesIO()
    pictures.drawn(np.asarray(example) * np.uint8(scale)).save(file, "PNG")
    content = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{content}">'


_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$data</title>
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } th { text-align: left; font-weight: 500 }
td, th { padding: .1rem .8rem .1rem 0 } td { text-align: right; font-variant-numeric: tabular-nums }
.bar { width: 14rem } .bar i { display: block; height: .8rem; background: #4a7bd0 }
section { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; max-width: 28rem }
img { width: 6rem; image-rendering: pixelated; background: #888 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 } figcaption { opacity: .75 }
</style>
<h1>$title</h1>
<p><code>$data</code> · $origin</p>
<p>$facts</p>
$tables
<h2>Examples</h2>
<section>$examples</section>
</html>
""")
