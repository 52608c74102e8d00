"""``report.html`` of a study: how the search went, what mattered, which settings were good."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from lockstep.ground.console import number
from lockstep.records.report import STYLE, svg, table

_GOOD, _LINE, _GIVEN_UP = "#1f5fa8", "#d9731a", "#9a9a9a"


def page(
    name: str,
    metric: str,
    direction: str,
    trials: Sequence[dict[str, Any]],
    importances: dict[str, float],
) -> bytes:
    """The page of a study; ``trials`` with number, state, value, settings, run, by number."""
    complete = [trial for trial in trials if trial["state"] == "complete"]
    sign = -1 if direction == "maximize" else 1
    ranked = sorted(complete, key=lambda trial: (sign * trial["value"], trial["number"]))
    drawings = ""
    if complete:
        drawings = "<h2>History</h2>" + _history(trials, metric, direction)
        if importances:
            drawings += "<h2>What mattered</h2>" + _importances(importances)
        drawings += "<h2>Settings of all trials, the best darkest</h2>" + _coordinates(ranked)
    rest = [trial for trial in trials if trial["state"] != "complete"]
    settings = list(trials[0]["settings"]) if trials else []
    return _PAGE.format(
        style=STYLE,
        name=html.escape(name),
        drawings=drawings or "<p>No trial was trained to its end.</p>",
        trials=table(
            [[html.escape(cell) for cell in _row(trial, settings)] for trial in [*ranked, *rest]],
            ["trial", f"validation {metric}", *map(html.escape, settings), "run"],
        ),
    ).encode()


def _row(trial: dict[str, Any], settings: Sequence[str]) -> list[str]:
    found = {
        "complete": number(trial["value"]),
        "pruned": f"given up after epoch {trial['epochs']}",
        "fail": f"failed: {trial['failed']}",
    }.get(trial["state"], trial["state"])
    values = [_text(trial["settings"].get(key, "")) for key in settings]
    return [str(trial["number"]), found, *values, trial["run"] or ""]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _history(trials: Sequence[dict[str, Any]], metric: str, direction: str) -> str:
    """The value of each trial and the best up to it; the last value of those that were given up."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    for state, color, label in (("complete", _GOOD, "trial"), ("pruned", _GIVEN_UP, "given up")):
        shown = [(t["number"], t["value"]) for t in trials if t["state"] == state]
        shown = [pair for pair in shown if pair[1] is not None]
        if shown:
            numbers, values = zip(*shown, strict=True)
            axes.scatter(numbers, values, s=22, c=color, label=label, zorder=3)
    complete = [(t["number"], t["value"]) for t in trials if t["state"] == "complete"]
    numbers, values = zip(*complete, strict=True)
    best = (np.maximum if direction == "maximize" else np.minimum).accumulate(values)
    axes.step(numbers, best, where="post", c=_LINE, label="best so far")
    axes.set(xlabel="trial", ylabel=f"validation {metric}")
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _importances(importances: dict[str, float]) -> str:
    """A bar for each setting: its share of what the value varies by.

    By fANOVA (Hutter, Hoos and Leyton-Brown, 2014).
    """
    from matplotlib.figure import Figure

    names = sorted(importances, key=lambda name: importances[name])
    figure = Figure(figsize=(9, 0.8 + 0.35 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, [importances[name] for name in names], color=_GOOD, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.set(xlim=(0, 1.05), xlabel="share of what the value varies by")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _coordinates(ranked: Sequence[dict[str, Any]]) -> str:
    """A line for each trial through its settings, the worst drawn first."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    settings = list(ranked[0]["settings"])
    places = {key: _places([trial["settings"][key] for trial in ranked]) for key in settings}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    for rank, _ in reversed(list(enumerate(ranked))):
        shade = colormaps["Blues"](1 - 0.8 * rank / max(len(ranked) - 1, 1))
        heights = [places[key][rank] for key in settings]
        axes.plot(range(len(settings)), heights, c=shade, lw=2 if rank == 0 else 1.2)
    for at, key in enumerate(settings):
        values = [trial["settings"][key] for trial in ranked]
        for value, height in dict(zip(values, places[key], strict=True)).items():
            if height in (0.0, 1.0) or isinstance(value, str | bool):
                axes.text(
                    at + 0.02, height, _text(value), fontsize=8, va="center", parse_math=False
                )
    axes.set_xticks(range(len(settings)), settings, rotation=15, ha="right", parse_math=False)
    axes.set(yticks=[], xlim=(-0.2, len(settings) - 0.6))
    axes.spines[["top", "right", "left"]].set_visible(False)
    return svg(figure)


def _places(values: Sequence[Any]) -> list[float]:
    """Where values stand between the lowest and the highest, 0 to 1; words by their order."""
    if any(isinstance(value, str | bool) for value in values):
        order = sorted(set(map(str, values)))
        return [order.index(str(value)) / max(len(order) - 1, 1) for value in values]
    low, high = min(values), max(values)
    if low > 0 and high / low > 10:
        return _places([float(logarithm) for logarithm in np.log(values)])
    return [float((value - low) / (high - low or 1)) for value in values]


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name}</title>
{style}
<h1>{name}</h1>
{drawings}
<h2>Trials</h2>
<div style="overflow-x: auto">{trials}</div>
</html>
"""
