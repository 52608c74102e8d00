"""``report.html``: a run at a glance, one file that needs nothing else."""

import base64
import html
import io
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lockstep.ground.console import number
from lockstep.ground.watch import Row
from lockstep.records.receipt import PerClass, Receipt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lockstep.ground.pictures import Picture


Pair = tuple[str, NDArray[Any], NDArray[Any]]  # name of a column of numbers, targets, outputs


@dataclass(frozen=True)
class Mistake:
    """A test example that the model was wrong about; ``shown`` is a picture or a text.

    ``confidence`` is how sure the model was, where it says so.
    """

    row: int
    shown: "Picture | str"
    label: str
    predicted: str
    confidence: float | None = None


@dataclass(frozen=True)
class Answers:
    """What a model answered on the test split: outputs (rows, ...) and what would be right.

    ``kind`` is that of the targets; of masks, outputs are confusions (rows, classes, classes). Both
    are None where they were not kept. ``show`` returns a row as people see it.
    """

    kind: str
    names: Sequence[str]
    outputs: NDArray[np.float32] | None
    target: Any
    show: "Callable[[int], Picture | str]"

    def mistakes(self, most: int = 18) -> list[Mistake]:
        """Return the worst mistakes, worst first; none for outputs of a shape of their own."""
        outputs, target, names = self.outputs, self.target, self.names
        if outputs is None:
            return []
        if self.kind == "class" and outputs.shape == (len(target), len(names)):
            return worst_mistakes(outputs, target, names, self.show, most)
        if self.kind == "mask" and target is None:
            return _worst_masks(outputs, self.show, most)
        if self.kind not in ("numbers", "labels") or outputs.shape != target.shape:
            return []
        apart = np.abs(np.nan_to_num(outputs) - target).astype(np.float64)
        if self.kind == "numbers":
            far = (apart / np.maximum(np.ptp(target, axis=0), 1e-30)).max(axis=1)
            texts = [_numbers(outputs, names), _numbers(target, names)]
        else:
            wrong = ((outputs >= 0.5) != (target > 0)).any(axis=1)
            far = np.where(wrong, apart.sum(axis=1), 0)
            texts = [_labels(outputs >= 0.5, names), _labels(target > 0, names)]
        predicted, right = texts
        worst = np.argsort(-far, kind="stable")[:most]
        return [
            Mistake(int(row), self.show(int(row)), right(row), predicted(row))
            for row in worst
            if far[row] > 0
        ]

    def pairs(self) -> list[Pair]:
        """Return name, targets and outputs of the first columns of numbers, to be drawn."""
        if (
            self.kind != "numbers"
            or self.outputs is None
            or self.outputs.shape != self.target.shape
        ):
            return []
        rows = slice(None, None, -(-len(self.target) // 2000))
        columns = zip(self.names, self.target[rows].T, self.outputs[rows].T, strict=False)
        return list(columns)[:4]


def _numbers(values: NDArray[Any], names: Sequence[str]) -> Callable[[int], str]:
    """Return the text of a row of numbers, with their names where there are several."""

    def text(row: int) -> str:
        if len(names) == 1:
            return f"{values[row, 0]:.6g}"
        pairs = zip(names, values[row], strict=False)
        return ", ".join(f"{name} {value:.6g}" for name, value in list(pairs)[:4])

    return text


def _labels(said: NDArray[np.bool_], names: Sequence[str]) -> Callable[[int], str]:
    def text(row: int) -> str:
        chosen = [names[int(column)] for column in np.flatnonzero(said[row])]
        return ", ".join(chosen) or "none"

    return text


def _worst_masks(
    counts: NDArray[np.float32], show: "Callable[[int], Picture | str]", most: int
) -> list[Mistake]:
    """Return the examples with the smallest share of pixels that are right."""
    right = np.trace(counts, axis1=1, axis2=2)
    shares = right / np.maximum(counts.sum(axis=(1, 2)), 1)
    worst = np.argsort(shares, kind="stable")[:most]
    return [
        Mistake(int(row), show(int(row)), "", f"{shares[row]:.1%} of pixels right")
        for row in worst
        if shares[row] < 1
    ]


def worst_mistakes(
    answers: NDArray[np.float32],
    labels: NDArray[np.int64],
    names: Sequence[str],
    show: "Callable[[int], Picture | str]",
    most: int = 18,
) -> list[Mistake]:
    """The wrong answers that the model was surest of, surest first."""
    answers = np.nan_to_num(answers)
    predicted, sure = answers.argmax(axis=1), answers.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    return [
        Mistake(int(i), show(int(i)), names[labels[i]], names[predicted[i]], float(sure[i]))
        for i in worst
    ]


def page(
    receipt: bytes,
    rows: Sequence[Row],
    trace: NDArray[np.void],
    mistakes: Sequence[Mistake] = (),
    pairs: Sequence[Pair] = (),
    settings: Sequence[Sequence[str]] = (),
    commands: Sequence[str] = (),
) -> bytes:
    """The report of a run: results, learning curves, tables of classes, mistakes, the receipt.

    ``mistakes`` and ``pairs`` are those of its answers on the test split. ``settings`` are those
    that differ from their defaults (name, value, default), ``commands`` make the run again.
    """
    content: Receipt = json.loads(receipt)
    results = content["results"]
    test, names = results["metrics"]["test"], results["labels"]
    facts = {
        **{
            f"test {name}": number(value)
            for name, value in test.items()
            if value is None or isinstance(value, int | float)
        },
        "steps": f"{results['steps']:,} in {results['epochs']} epochs",
        "weights kept from step": f"{results['kept_step']:,}",
        "weights sha256": results["weights_sha256"],
        "identity": content["identity"]["digest"],
        "data version": results["data_version"],
        **_circumstances(content),
    }
    cautions = []
    if drift := content["environment"]["drift"]:
        cautions.append(f"Packages not as locked: {html.escape('; '.join(drift))}")
    if content["environment"]["notebook"]:
        cautions.append("Trained from a notebook, whose cells are in no identity.")
    return _PAGE.format(
        style=STYLE,
        run=html.escape(content["run"]),
        warning="".join(f"<p class=warning>{text}</p>" for text in cautions),
        facts=table(
            [[name, f"<code>{html.escape(value)}</code>"] for name, value in facts.items()]
        ),
        settings=_settings(settings),
        commands="".join(f"<pre>{html.escape(command)}</pre>" for command in commands),
        curves=_curves(rows, trace, results["monitor"]),
        answers=_answered(test, names, mistakes, pairs),
        receipt=html.escape(receipt.decode()),
    ).encode()


def _circumstances(content: Receipt) -> dict[str, str]:
    """The commit, the date and how long training took, in the order of the table."""
    git, timing = content["environment"]["git"], content["timing"]
    commit = git["commit"] or "none, trained outside a checkout"
    resumed, workers = timing["resumed_at_step"], timing["workers"]
    seconds = f"{timing['seconds']:,.1f} s with {workers} worker{'s' * (workers != 1)}"
    return {
        "commit": f"{commit}, with uncommitted changes" if git["dirty"] else commit,
        "finished": timing["finished"],
        "duration": f"{seconds}, from step {resumed:,}, where it resumed" if resumed else seconds,
    }


def _settings(rows: Sequence[Sequence[str]]) -> str:
    cells = [[f"<code>{html.escape(cell)}</code>" for cell in row] for row in rows]
    changed = table(cells, ["setting", "value", "default"]) if cells else ""
    return f"{changed}<p>All other settings have their defaults.</p>"


def comparison(
    names: Sequence[str],
    facts: Sequence[Sequence[str]],
    losses: Sequence[NDArray[np.float64]],
    step: int | None,
    differences: Sequence[Sequence[str]],
) -> bytes:
    """The page of two runs A and B: facts (name, text), losses by step, differences (what, a, b).

    ``step`` counts from 1 and is where they part, or None.
    """
    escaped = [[html.escape(cell) for cell in row] for row in differences]
    return _COMPARISON.format(
        style=STYLE,
        title=html.escape(f"{names[0]} and {names[1]}"),
        facts=table(
            [["A", html.escape(names[0])], ["B", html.escape(names[1])]]
            + [[name, html.escape(text)] for name, text in facts]
        ),
        curves=_two_curves(losses, step),
        differences=table(escaped, ["", "A", "B"]) if escaped else "<p>None is recorded.</p>",
    ).encode()


def _two_curves(losses: Sequence[NDArray[np.float64]], step: int | None) -> str:
    """The losses of two runs over all steps (thinned), and all of them around the parting step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 2) if step else [figure.subplots()]
    near = (max(0, (step or 0) - 26), (step or 0) + 25)
    for axes, (start, stop) in zip(panels, [(0, max(map(len, losses))), near], strict=False):
        every = max(1, (stop - start) // 2000)
        # B is drawn over A, thin and broken, so that both show where they are the same.
        styles = {"lw": 2.5, "c": "#9db8d9"}, {"lw": 1, "c": "#a23c10", "ls": "--"}
        for name, values, drawn in zip("AB", losses, styles, strict=True):
            part = values[start:stop:every]
            axes.plot(np.arange(len(part)) * every + start + 1, part, label=name, **drawn)
        if step:
            axes.axvline(step, c="#888", lw=1, ls=":", label=f"part at step {step:,}")
        axes.set(xlabel="step", ylabel="loss", yscale="log")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _answered(
    test: Mapping[str, Any],
    names: Sequence[str],
    mistakes: Sequence[Mistake],
    pairs: Sequence[Pair],
) -> str:
    """What was answered on the test split: the parts that this kind of model has."""
    parts = []
    if "per_class" in test:
        parts.append(("Classes, on the test split", _classes(test["per_class"], names)))
    if "confusion" in test:
        drawn = _confusion(np.array(test["confusion"]), names)
        parts.append(("What was taken for what, on the test split", drawn))
    if pairs:
        parts.append(("Answers and targets, on the test split", _scatter(pairs)))
    if mistakes or "per_class" in test:
        shown = "".join(map(_figure, mistakes)) or "<p>None on the test split.</p>"
        sure = any(mistake.confidence is not None for mistake in mistakes)
        title = "Worst mistakes: wrong, and sure of it" if sure else "Worst mistakes"
        parts.append((title, f'<div class="mistakes">{shown}</div>'))
    return "\n".join(f"<h2>{title}</h2>\n{content}" for title, content in parts)


def _scatter(pairs: Sequence[Pair]) -> str:
    """A panel for each column of numbers: target against output, and the line of no error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4, 3 * len(pairs)), 3.6), layout="constrained")
    for axes, (name, target, output) in zip(
        figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True
    ):
        ends = [float(target.min()), float(target.max())]
        axes.plot(ends, ends, c="#888", lw=1, ls=":")
        axes.scatter(target, output, s=6, c="#1f5fa8", alpha=0.5, linewidths=0)
        axes.set(xlabel="target", ylabel="output")
        axes.set_title(name, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _curves(rows: Sequence[Row], trace: NDArray[np.void], monitor: str) -> str:
    """Loss of the steps (thinned) and of each epoch, and the monitor on the validation split."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    every = max(1, len(trace) // 2000)
    left.plot(np.arange(len(trace))[::every] + 1, trace["loss"][::every], lw=0.5, c="#9db8d9")
    steps = [row["step"] for row in rows]
    left.plot(steps, [row["train"]["loss"] for row in rows], c="#1f5fa8", label="training")
    losses = _validation(rows, "loss")
    left.plot(steps, losses, c="#d9731a", label="validation")
    positive = (trace["loss"] > 0).all() and not any(loss <= 0 for loss in losses)
    left.set(xlabel="step", ylabel="loss", yscale="log" if positive else "linear")
    epochs = [row["epoch"] for row in rows]
    right.plot(epochs, _validation(rows, monitor), c="#d9731a", label="validation")
    right.set(xlabel="epoch", ylabel=monitor)
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _validation(rows: Sequence[Row], name: str) -> list[float]:
    values = [row["validation"][name] for row in rows]
    return [math.nan if value is None else value for value in values]


def _confusion(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    from matplotlib.figure import Figure

    size = 1.8 + 0.42 * len(names)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(ticks, names, parse_math=False)
    axes.set(xlabel="answer", ylabel="label")
    for i, j in zip(*np.nonzero(counts), strict=True):
        shade = "white" if shares[i, j] > 0.5 else "black"
        axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=shade, fontsize=8)
    return svg(figure)


def svg(figure: "Figure") -> str:
    """A drawing as text, the same for the same figures: no date, no random names."""
    import matplotlib

    buffer = io.StringIO()
    with (
        matplotlib.rc_context({"svg.hashsalt": "lockstep", "svg.fonttype": "none"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the browser has the letters
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]


def _classes(classes: PerClass, names: Sequence[str]) -> str:
    head = ["class", *classes]
    body = [
        [html.escape(name), *(f"{values[i]:.4g}" for values in classes.values())]
        for i, name in enumerate(names)
    ]
    return table(body, head)


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A table whose cells are HTML already."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table>{line(head, 'th') if head else ''}{body}</table>"


def _figure(mistake: Mistake) -> str:
    if isinstance(mistake.shown, str):
        shown = f"<p>{html.escape(mistake.shown)}</p>"
    else:
        buffer = io.BytesIO()
        mistake.shown.save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        shown = f'<img alt="test example {mistake.row}" src="data:image/png;base64,{data}">'
    predicted = f"<b>{html.escape(mistake.predicted)}</b>"
    sure = "" if mistake.confidence is None else f" {mistake.confidence:.0%}"
    label = f"<br>is {html.escape(mistake.label)}" if mistake.label else ""
    return (
        f"<figure>{shown}<figcaption>{predicted}{sure}{label}<br>"
        f"<small>test row {mistake.row}</small></figcaption></figure>"
    )


STYLE = """<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }
body { padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; border-bottom: 1px solid #8884; }
code { overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; background: white; border-radius: 4px; }
.mistakes { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; width: 8.5rem; }
img { width: 100%; image-rendering: pixelated; border-radius: 4px; }
.warning { border-left: 4px solid #d9731a; padding-left: .8rem; }
pre { overflow-x: auto; font-size: .8rem; }
</style>"""

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{run}</title>
{style}
<h1>{run}</h1>
{warning}
{facts}
<h2>Train it again</h2>
{commands}
<h2>Settings</h2>
{settings}
<h2>Learning curves</h2>
{curves}
{answers}
<h2>Receipt</h2>
<details><summary>receipt.json</summary><pre>{receipt}</pre></details>
</html>
"""

_COMPARISON = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
{style}
<h1>{title}</h1>
{facts}
<h2>Losses</h2>
{curves}
<h2>Differences that can explain it</h2>
{differences}
</html>
"""
