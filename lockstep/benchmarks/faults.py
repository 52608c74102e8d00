"""Kills trainings at random instants; the result must have the bits of an undisturbed run."""

import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from lockstep.benchmarks.measure import Table, folder
from lockstep.ground import profiles
from lockstep.records.run import Run

STEPS = 64  # 8 epochs of 8: long enough to be met in the middle
WORDS = (
    "train",
    "digits/base",
    "--seed=42",
    "training.epochs=8",
    "training.checkpoint_every=2",
    "data.limit=500",
)
SAME = ("weights.safetensors", "preprocess.json", "trace.bin", "metrics.jsonl", "identity.json")

# Each process is forked from one that has imported torch and done nothing else, so that a start
# takes 0.2 s instead of 1.3; from there on it is the command line in a process of its own.
_FORKS = multiprocessing.get_context("forkserver")
_LOADED = ("lockstep.run.making", "lockstep.ground.console", "sklearn.metrics")
_DRAWN = ("matplotlib.figure", "matplotlib.backends.backend_svg")
_FORKS.set_forkserver_preload(["lockstep.benchmarks.faults", *_LOADED, *_DRAWN])


def forked(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Run a function in a new process that has torch loaded under the profile ``portable``."""
    # For the first fork: it comes from a Python that is started anew, without torch.
    for name, (_, expected) in profiles.differing("portable").items():
        os.environ.pop(name) if expected is None else os.environ.update({name: expected})
    process = _FORKS.Process(target=function, args=arguments)
    process.start()
    return process


def start(runs: Path, *more: str) -> ForkServerProcess:
    """Run ``python -m lockstep train ...`` in a new process; its output goes to ``said``."""
    runs.mkdir(exist_ok=True)
    said(runs).unlink(missing_ok=True)  # or a process killed at once would seem to repeat the last
    return forked(_command, [*WORDS, *more, "--runs", str(runs)], said(runs))


def said(runs: Path) -> Path:
    """Return the file with the output of the last process for these runs."""
    return runs.with_suffix(".said")


def _command(words: list[str], into: Path) -> None:
    from lockstep import cli

    handle = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(handle, number)
    sys.exit(cli.main(words))


def run_in(runs: Path) -> Run | None:
    """Return the only run of a folder, or None."""
    return next(map(Run, runs.glob("digits-*")), None)


def newest(runs: Path) -> int:
    """Return the step of the newest complete checkpoint, 0 if there is none."""
    names = [path.name for path in runs.glob("digits-*/checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def differences(run: Run, other: Run) -> list[str]:
    """List how two finished runs differ: files, results, left-over names."""
    found = [
        name
        for name in SAME
        if (run.folder / name).read_bytes() != (other.folder / name).read_bytes()
    ]
    if run.finished_receipt()["results"] != other.finished_receipt()["results"]:
        found.append("results of receipt.json")
    names, expected = _names(run.folder.parent), _names(other.folder.parent)
    return found + sorted(f"{name} -> {target}" for name, target in names ^ expected)


def _names(folder: Path) -> set[tuple[str, str]]:
    """Return all paths in a folder, with the targets of links."""
    return {
        (str(path.relative_to(folder)), str(path.readlink()) if path.is_symlink() else "")
        for path in folder.rglob("*")
    }


@dataclass
class Tally:
    """The result of killing: how many kills hit the run where, and what differed in the end."""

    seed: int
    met: Counter[str] = field(default_factory=Counter)
    trainings: int = 0
    differing: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.met.total()


def kill_at_random(
    kills: int, seed: int, place: Path, tell: Callable[[str], None] = lambda _: None
) -> Tally:
    """Finish trainings that are killed at random instants, until there are enough kills.

    After each kill the same command must resume at the newest checkpoint that was there.
    """
    chance, tally = random.Random(seed), Tally(seed)
    start(place / "warm").join()  # the first fork waits for the imports
    began = time.monotonic()
    start(place / "alone").join()
    length = time.monotonic() - began
    expected = run_in(place / "alone")
    assert expected and expected.receipt, said(place / "alone").read_text()
    while tally.kills < kills:
        runs = place / str(tally.trainings)
        while True:
            before = newest(runs)
            process = start(runs)
            process.join(chance.uniform(0, length) if tally.kills < kills else None)
            if ended := process.exitcode is not None:
                break
            process.kill()
            process.join()
            tally.met[_met(runs)] += 1
            tally.differing += _lost(runs, before)
        tally.differing += _lost(runs, before)
        tally.trainings += 1
        run = run_in(runs)
        if not (ended and process.exitcode == 0 and run):
            tally.differing.append(f"exit code {process.exitcode}: {said(runs).read_text()}")
        else:
            tally.differing += differences(run, expected)
        tell(f"{tally.kills} kills, {tally.trainings} trainings, {len(tally.differing)} differing")
        if tally.differing:
            break
    return tally


def _met(runs: Path) -> str:
    """Return where a kill hit the run, by its files."""
    run = run_in(runs)
    if run is None or not (run.folder / "trace.bin").exists():
        return "opening"
    if any(run.folder.glob("checkpoints/.*")):
        return "writing a checkpoint"
    if any(run.folder.glob(".*")) or (run.folder / "weights.safetensors").exists():
        return "writing results"
    return "training"


def _lost(runs: Path, before: int) -> list[str]:
    """Whether the last process started elsewhere than at the newest checkpoint."""
    lines = said(runs).read_text().splitlines() if said(runs).exists() else []
    expected = f"resumes at step {before} of" if before else "starts of"
    begun = [line for line in lines if line.endswith(f" of {STEPS}")]
    return [f"said {line!r}, expected {expected!r}" for line in begun if expected not in line]


def table(kills: int) -> Table:
    """Kill trainings with frequent checkpoints; stop at the first difference."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", file=sys.stderr)
    began = time.monotonic()
    with folder() as place:
        tally = kill_at_random(
            kills, seed, place, lambda line: print(line, file=sys.stderr, flush=True)
        )
    if tally.differing:
        first = "; ".join(tally.differing[:3])
        raise SystemExit(f"seed {seed}: {len(tally.differing)} differences: {first}")
    minutes = (time.monotonic() - began) / 60
    head = ["killed while", "kills"]
    rows = [[name, str(number)] for name, number in sorted(tally.met.items())]
    rows.append([f"together, in {minutes:.1f} minutes, seed {seed}", str(tally.kills)])
    rows.append(["trainings that ended with other bits", f"0 of {tally.trainings}"])
    return Table("faults", head, rows, {"seed": seed, "met": tally.met, "minutes": minutes})
