"""Two runs side by side, from their files alone: where they part, and what can explain it."""

import json
import math
import struct
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.records import report, trace
from lockstep.records.differences import Difference, recorded
from lockstep.records.run import Run
from lockstep.records.verify import refuse_altered

# What it means that a column is the first to differ; they stand in the order of their causes.
MEANING = {
    "ids": "other samples",
    "batch": "other bytes of the same samples",
    "loss": "the same batch, but another loss",
    "gradient": "the same loss, but another gradient",
    "weights": "the same gradient, but other weights after the step",
}
# What of a receipt's results is bits that came out, and not what they were made from.
BITS = {"steps", "epochs", "kept_step", "weights_sha256", "preprocess_sha256", "trace_sha256"}
BITS |= {"metrics_sha256", "labels", "metrics", "data"}
_TOGETHER = 1 << 16  # records compared at once


@dataclass(frozen=True)
class TensorDifference:
    """The first tensor that differs, in the model's order; ``largest`` is of absolute values."""

    name: str
    differing: int
    values: int
    largest: float | None


@dataclass(frozen=True)
class Comparison:
    """What a comparison found; ``step`` counts from 1 and is None if no common step differs."""

    names: tuple[str, str]
    steps: tuple[int, int]
    finished: tuple[bool, bool]
    step: int | None
    column: str | None
    epoch: int | None
    tensor: TensorDifference | None
    results: list[str]
    weights: str | None
    differences: list[Difference]

    @property
    def same(self) -> bool:
        """Whether all that both have is the same bits, and neither ends before the other."""
        ended = not all(self.finished) or self.steps[0] == self.steps[1]
        return ended and self.step is None and self.tensor is None and not self.results

    @property
    def verdict(self) -> str:
        """One line for people."""
        common, names = min(self.steps), self.names
        if self.step is not None and self.column is not None:
            first = self.step == 1 and self.column in ("loss", "gradient")
            begun = " (or they began with other weights)" if first else ""
            return (
                f"DIFFERENT from step {self.step:,} on (epoch {self.epoch}; {common:,} steps in "
                f"common): {self.column}: {MEANING[self.column]}{begun}"
            )
        if not self.same and self.steps[0] != self.steps[1]:
            longer = int(self.steps[1] > self.steps[0])
            return (
                f"DIFFERENT in length: the same bits for {common:,} steps, where {'AB'[1 - longer]}"
                f" ends; {'AB'[longer]} goes on to {max(self.steps):,}"
            )
        if not self.same:
            what = ", ".join(self.results or ["weights"])
            return f"DIFFERENT after the same {common:,} steps: {what}"
        if all(self.finished):
            return f"same bits: {common:,} steps, weights sha256 {self.weights}"
        short = [f"{'AB'[i]} ({names[i]})" for i in (0, 1) if not self.finished[i]]
        return f"same bits in the {common:,} steps in common; not finished: {' and '.join(short)}"

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"same": self.same, "verdict": self.verdict} | asdict(self)


def compare(a: Run, b: Run) -> Comparison:
    """Compare the traces, weights and results of two runs; nothing is trained, torch not loaded.

    Raises RunError if a file of either was altered.
    """
    for run in (a, b):
        refuse_altered(run)
    traces = [trace.read(run.folder / "trace.bin") for run in (a, b)]
    place = parting(*traces)
    receipts = [run.receipt for run in (a, b)]
    column = None
    if place is not None:
        one, other = (records[place] for records in traces)
        column = next(
            n for n in trace.RECORD.fields or () if one[n].tobytes() != other[n].tobytes()
        )
    results = []
    if receipts[0] and receipts[1]:
        found, wanted = (dict(content["results"]) for content in (receipts[0], receipts[1]))
        if place is None and len(traces[0]) == len(traces[1]):
            results = [key for key in found if key in BITS and found[key] != wanted[key]]
    return Comparison(
        names=(a.name, b.name),
        steps=(len(traces[0]), len(traces[1])),
        finished=(receipts[0] is not None, receipts[1] is not None),
        step=None if place is None else place + 1,
        column=column,
        epoch=None if place is None else place // _steps_per_epoch(a, b) + 1,
        tensor=_first_tensor(a.folder, b.folder),
        results=results,
        weights=receipts[0]["results"]["weights_sha256"] if receipts[0] else None,
        differences=recorded(a, b),
    )


def parting(a: NDArray[np.void], b: NDArray[np.void]) -> int | None:
    """The place of the first record that differs in any bit, or None if no common one does.

    The chain of weights could be searched by halves, but the other columns could not, and to read
    everything takes a tenth of a second for a million steps.
    """
    words = trace.RECORD.itemsize // 8
    steps = min(len(a), len(b))
    for start in range(0, steps, _TOGETHER):
        stop = min(start + _TOGETHER, steps)
        one, other = (
            np.ascontiguousarray(part[start:stop]).view("<u8").reshape(-1, words) for part in (a, b)
        )
        unequal = one != other
        if unequal.any():
            return start + int(unequal.any(axis=1).argmax())
    return None


def _steps_per_epoch(*runs: Run) -> int:
    """Of the first run that has ended an epoch; if none has, all their steps are of the first."""
    return next((int(rows[0]["step"]) for run in runs if (rows := run.metrics())), sys.maxsize)


def page(a: Run, b: Run, found: Comparison) -> bytes:
    """A page that shows where two runs part: their losses, and what can explain it."""
    losses = [trace.read(run.folder / "trace.bin")["loss"] for run in (a, b)]
    facts = [["verdict", found.verdict], *([part, text] for part, text in details(found))]
    rows = [[f"{row.part} {row.name}", row.a, row.b] for row in found.differences]
    return report.comparison(found.names, facts, losses, found.step, rows)


def details(found: Comparison) -> list[tuple[str, str]]:
    """What there is to say besides the verdict: (about what, text)."""
    told = []
    if tensor := found.tensor:
        by = "" if tensor.largest is None else f", by {tensor.largest:.6g} at most"
        told.append(
            (
                "first differing tensor",
                f"{tensor.name}: {tensor.differing:,} of {tensor.values:,} values{by}",
            )
        )
    if not found.same and not found.differences:
        told.append(
            (
                "explanation",
                "none in what is recorded: the same settings, source, data, packages and machine",
            )
        )
    return told


def _first_tensor(a: Path, b: Path) -> TensorDifference | None:
    """The first tensor whose bytes differ, if both runs have weights."""
    paths = [folder / "weights.safetensors" for folder in (a, b)]
    if not all(path.exists() for path in paths):
        return None
    (order, one), (_, other) = (_tensors(path) for path in paths)
    for name in [*order, *(name for name in other if name not in one)]:
        kinds = [tensors[name][0] if name in tensors else "none" for tensors in (one, other)]
        if kinds[0] != kinds[1]:
            return TensorDifference(f"{name} ({kinds[0]} and {kinds[1]})", 0, 0, None)
        kind, x, y = kinds[0], one[name][1], other[name][1]
        if (differing := int(np.count_nonzero(x != y))) > 0:
            return TensorDifference(name, differing, len(x), _largest(kind.split()[0], x, y))
    return None


_BITS = {8: "<u8", 4: "<u4", 2: "<u2", 1: "u1"}
_NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


def _tensors(path: Path) -> tuple[list[str], dict[str, tuple[str, NDArray[Any]]]]:
    """The names in the model's order, and by name (kind, values as whole numbers of their bits).

    Safetensors sorts by name; the model's order is in ``order`` of the file's metadata, or else
    numbers within names are taken as numbers.
    """
    content = np.memmap(path, np.uint8, mode="r")
    (length,) = struct.unpack("<Q", content[:8].tobytes())
    head = json.loads(content[8 : 8 + length].tobytes())
    metadata = head.pop("__metadata__", {})
    tensors = {}
    for name, entry in head.items():
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        count = int(np.prod(entry["shape"], dtype=np.int64))
        width = (stop - start) // count if count else 1
        values = content[start:stop].view(_BITS.get(width, "u1"))
        tensors[name] = f"{entry['dtype']} {entry['shape']}", values
    order = json.loads(metadata["order"]) if "order" in metadata else sorted(head, key=_natural)
    return order, tensors


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _largest(kind: str, a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """The largest absolute difference, None if it is no finite number that numpy knows."""
    if kind == "BF16":  # the upper half of a float32
        a, b = ((bits.astype("<u4") << 16).view("<f4") for bits in (a, b))
    elif kind in _NUMBERS:
        a, b = (bits.view(_NUMBERS[kind]) for bits in (a, b))
    else:
        return None
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
    return largest if math.isfinite(largest) else None
