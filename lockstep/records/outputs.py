"""Two runs of scripts side by side: which outputs differ, and what can explain it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lockstep.ground.errors import RunError
from lockstep.records.differences import (
    Difference,
    between_environments,
    between_scripts,
)
from lockstep.records.run import Run
from lockstep.records.script import Output, Script
from lockstep.records.verify import refuse_altered


@dataclass(frozen=True)
class OutputComparison:
    """What a comparison found; ``outputs`` says of each output that differs how it does."""

    names: tuple[str, str]
    outputs: dict[str, str]
    count: int
    differences: list[Difference]

    @property
    def same(self) -> bool:
        """Whether both wrote the same files with the same bits."""
        return not self.outputs

    @property
    def verdict(self) -> str:
        """One line for people."""
        if self.same:
            return f"same bits: {self.count} output{'s' * (self.count != 1)}"
        name, how = next(iter(self.outputs.items()))
        more = f" (and {len(self.outputs) - 1} more)" if len(self.outputs) > 1 else ""
        return f"DIFFERENT: {name}: {how}{more}"

    def details(self) -> list[tuple[str, str]]:
        """What there is to say besides the verdict: (about what, text)."""
        rows = [("output", f"{name}: {how}") for name, how in [*self.outputs.items()][1:]]
        if not self.same and not self.differences:
            text = (
                "none in what is recorded: the time, absolute paths, unseeded randomness, variables"
            )
            rows.append(("explanation", text))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"same": self.same, "verdict": self.verdict} | asdict(self)


def compare(a: Run, b: Run) -> OutputComparison:
    """Compare the outputs of two finished runs of scripts, by their receipts.

    Raises RunError if one is the run of a model, is not finished or was altered.
    """
    one, other = script_of(a), script_of(b)
    for run in (a, b):
        refuse_altered(run)
    receipts = one.finished_receipt(), other.finished_receipt()
    outputs = tuple(receipt["results"]["outputs"] for receipt in receipts)
    differences = between_scripts(one.parts, other.parts)
    differences += between_environments(receipts[0]["environment"], receipts[1]["environment"])
    names = sorted(outputs[0].keys() | outputs[1].keys())
    differing = {
        name: how
        for name in names
        if (how := _difference(name, outputs[0].get(name), outputs[1].get(name), one, other))
    }
    return OutputComparison((a.name, b.name), differing, len(names), differences)


def script_of(run: Run) -> Script:
    """Return the run as that of a script. Raises RunError for the run of a model."""
    if not run.script:
        raise RunError(
            f"{run.name}: is the run of a model, expected that of a script; the two cannot be "
            "compared."
        )
    return run.script


def _difference(name: str, a: Output | None, b: Output | None, one: Script, other: Script) -> str:
    """How an output differs, in a few words; nothing if it does not."""
    if a is None or b is None:
        return "only in B" if a is None else "only in A"
    if a["sha256"] == b["sha256"]:
        return ""
    if a["kept"] and b["kept"]:
        return _first_difference(one.output(name), other.output(name))
    return f"{a['bytes']:,} and {b['bytes']:,} bytes, sha256 {a['sha256'][:12]}, {b['sha256'][:12]}"


def _first_difference(a: Path, b: Path) -> str:
    """Where two files differ first: the line of a text, the byte of anything else."""
    one, other = a.read_bytes(), b.read_bytes()
    place = next(
        (i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y),
        min(len(one), len(other)),
    )
    try:
        line = one[:place].decode().count("\n") + 1
        other.decode()
        return f"differs from line {line:,} on"
    except UnicodeDecodeError:
        return f"differs from byte {place + 1:,} on ({len(one):,} and {len(other):,} bytes)"
