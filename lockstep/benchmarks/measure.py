"""Measures side by side: new processes in turn, medians and ratios of pairs."""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep.ground import environment, profiles

ROOT = Path(__file__).parents[2]
BATCH = 128


@dataclass(frozen=True)
class Table:
    """A table for people, with the full measurements for ``results.json``."""

    name: str
    head: list[str]
    rows: list[list[str]]
    measured: Any

    def markdown(self) -> str:
        """The table as GitHub shows it."""
        lines = [self.head, ["---"] + ["---:"] * (len(self.head) - 1), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Process:
    """A child process: the times of its start and its steps, in seconds of one clock for all."""

    began: float
    done: list[float]
    told: dict[str, Any]

    @property
    def first_step(self) -> float:
        """Seconds from its start to its first finished step."""
        return self.done[0] - self.began

    def rate(self, warm: int) -> float:
        """Samples per second after ``warm`` steps."""
        return (len(self.done) - warm) * BATCH / (self.done[-1] - self.done[warm - 1])


def child(*words: str) -> Process:
    """Run a Python process with one thread and nothing else set, and read its last line as JSON."""
    ours = {*profiles.variables("portable"), "OMP_THREAD_LIMIT"}
    # Without compiled modules every start would take seconds, and hide what else there is in it.
    ours |= {"PYTHONDONTWRITEBYTECODE"}
    plain = {name: value for name, value in os.environ.items() if name not in ours}
    plain |= {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [sys.executable, *words]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    told = json.loads(done.stdout.splitlines()[-1])
    return Process(began, told["done"], told)


def in_turn(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each case once a round in random order, so that slow moments affect all alike."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    order = random.Random(0)
    for number in range(rounds):
        for name in order.sample(sorted(cases), len(cases)):
            found[name].append(cases[name]())
            print(f"round {number + 1}: {name} {found[name][-1]:.5g}", file=sys.stderr, flush=True)
    return found


def ratio(found: Mapping[str, list[float]], name: str, base: str) -> float:
    """Return the median ratio of a case to another of the same round."""
    return statistics.median(a / b for a, b in zip(found[name], found[base], strict=True))


def excess(found: Mapping[str, list[float]], name: str, base: str) -> float:
    """Return the median difference of a case from another of the same round."""
    return statistics.median(a - b for a, b in zip(found[name], found[base], strict=True))


def middle(values: list[float]) -> tuple[float, float, float]:
    """Median, and the quartiles around it."""
    low, median, high = statistics.quantiles(values, n=4)
    return median, low, high


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder for runs and remove it afterwards; on a disk, not in memory."""
    disk = "/var/tmp" if Path("/var/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="lockstep-", dir=disk) as name:
        yield Path(name)


def machine() -> dict[str, Any]:
    """Describe the machine that the figures depend on."""
    found, commit = environment.cpu(), environment.git()
    return {
        "cpu": found["model"],
        "features": found["features"],
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": sys.version.split()[0],
        "torch": environment.installed().get("torch", "none"),
        "commit": commit["commit"],
        "dirty": commit["dirty"],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
