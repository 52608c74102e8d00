"""A golden run: an example trained briefly, to compare the bits of two engines."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep.ground.digests import digest_of
from lockstep.ground.home import EXAMPLES, PROJECT
from lockstep.ground.processes import follow_parent

_WORDS = ("train", "digits/base", "training.epochs=1", "data.limit=64", "training.batch_size=16")


@dataclass(frozen=True)
class Golden:
    """The digest of a golden run's weights, and the packages in its identity; or its failure."""

    weights: str = ""
    packages: dict[str, Any] | None = None
    failure: str = ""


def golden(root: Path) -> Golden:
    """Train with the engine of a tree, in a process of its own, with the present packages."""
    with tempfile.TemporaryDirectory(prefix="lockstep-golden-") as folder:
        variables = {PROJECT: EXAMPLES, "LOCKSTEP_TRACK": "off", "PYTHONPATH": str(root)}
        variables |= {"LOCKSTEP_DATA": f"{folder}/data", "PYTHONDONTWRITEBYTECODE": "1"}
        words = [*_WORDS, "--seed", "42", "--workers", "1", "--runs", f"{folder}/runs"]
        done = subprocess.run(
            [sys.executable, "-m", "lockstep", *words],
            cwd=root,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            preexec_fn=follow_parent,
        )
        weights = list(Path(folder).glob("runs/*/weights.safetensors"))
        if done.returncode or len(weights) != 1:
            return Golden(failure=(done.stderr.strip().splitlines() or ["no reason given"])[-1])
        parts = json.loads(weights[0].with_name("parts.json").read_bytes())
        return Golden(digest_of(weights[0].read_bytes()), parts["packages"])


@dataclass(frozen=True)
class Bits:
    """What an upgrade means for bits: ``files`` are those that make bits and changed.

    ``packages`` are those in identities whose versions changed, ``stopped`` the unfinished runs.
    ``before`` and ``after`` are digests of the golden run's weights, empty if it was not trained;
    packages are not compared then either.
    """

    files: list[str]
    packages: list[str]
    before: str
    after: str
    stopped: list[str]

    @property
    def same_identities(self) -> bool:
        """Whether runs keep their identities."""
        return not self.files and not self.packages

    def lines(self) -> list[str]:
        """Describe it for people."""
        lines = []
        if self.before and self.before == self.after:
            lines.append(f"bits: the golden run has the same weights ({self.after[:8]})")
        elif self.before and self.after:
            lines.append(
                f"bits: CHANGED: the golden run has other weights ({self.after[:8]}, before "
                f"{self.before[:8]})"
            )
        if self.same_identities and not self.after:
            lines.append("identities: not changed by the engine; packages were not compared")
            return lines
        if self.same_identities:
            return [*lines, "identities: the same, so stopped runs resume"]
        what = [f"files that make bits: {_some(self.files)}"] if self.files else []
        what += [f"packages: {_some(self.packages)}"] if self.packages else []
        lines.append(f"identities: CHANGED by {' and '.join(what)}")
        if self.stopped:
            lines.append(
                f"stopped runs that start again from step 0: {_some(self.stopped)}; to finish them "
                "first: git reset --hard, train, upgrade again"
            )
        return lines


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
