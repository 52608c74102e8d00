"""The benchmarks: each returns a table and the full measurements."""

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lockstep.benchmarks.measure import (
    ROOT,
    Process,
    Table,
    child,
    excess,
    folder,
    in_turn,
    middle,
    ratio,
)
from lockstep.data.batches import Batches
from lockstep.data.dataset import Split
from lockstep.records import trace

WARM = {"cnn": 30, "mlp": 60}
STEPS = {"cnn": 230, "mlp": 420}  # with the warm steps; an epoch has 430

Case = Callable[[], float]


def throughput(rounds: int) -> Table:
    """Measure samples per second with everything on, and of the loops that people write."""
    rows, measured = [], {}
    for network in ("cnn", "mlp"):
        with folder() as runs:
            found = in_turn(_throughput_cases(network, runs), rounds)
        measured[network] = found
        for name, rates in found.items():
            median, low, high = middle(rates)
            rows.append(
                [
                    network.upper(),
                    name,
                    f"{median:,.0f}",
                    f"{low:,.0f} to {high:,.0f}",
                    f"{ratio(found, name, 'bare loop'):.2f}",
                ]
            )
    head = ["network", "loop", "samples/s", "quartiles", "of the bare loop"]
    return Table("throughput", head, rows, measured)


def _throughput_cases(network: str, runs: Path) -> dict[str, Case]:
    steps, warm = STEPS[network], WARM[network]
    numbers = count()

    def loop(kind: str) -> float:
        return child("-m", "lockstep.benchmarks.loops", kind, network, str(steps)).rate(warm)

    def lockstep(profile: str, shards: int) -> float:
        settings = f"training.profile={profile}", f"training.shards={shards}"
        process = train(steps, network, *settings, runs=runs / str(next(numbers)))
        return process.rate(warm)

    cases: dict[str, Case] = {
        "bare loop": partial(loop, "bare"),
        "DataLoader": partial(loop, "loader"),
    }
    for profile in ("native", "portable"):
        for shards in (1, 8):
            name = f"Lockstep, {profile}, {shards} shard{'s' * (shards > 1)}"
            cases[name] = partial(lockstep, profile, shards)
    return cases


def train(steps: int, recipe: str, *settings: str, runs: Path, probe: str = "") -> Process:
    """Run ``python -m lockstep train`` for some steps from where its run stopped."""
    alone = "training.workers=1"
    words = [*([probe] if probe else []), str(steps), "train", recipe, alone, *settings]
    return child("-m", "lockstep.benchmarks.probe", *words, "--runs", str(runs))


def checkpoint(rounds: int) -> Table:
    """Measure the cost of a checkpoint every 50 steps: steps during a write against others."""
    shares: dict[str, list[float]] = {}
    for profile in ("native", "portable"):
        shares[profile] = []
        for _ in range(rounds):
            with folder() as runs:
                done = train(400, "cnn", f"training.profile={profile}", runs=runs).done
            # The second of three stretches begins with the snapshot; the others have nothing.
            at = partial(_excess, done, length=25)
            shares[profile] += [share / 2 for share in map(at, range(100, 400, 50))]
    head = ["CNN, 8 shards", "a checkpoint every 50 steps costs", "quartiles", "checkpoints"]
    return Table("checkpoint", head, _share_rows(shares), shares)


def tracing(rounds: int) -> Table:
    """Measure the cost of trace and digests: ten steps with them against ten without."""
    shares: dict[str, list[float]] = {}
    for network in ("cnn", "mlp"):
        for shards in (1, 8):
            name = f"{network.upper()}, native, {shards} shard{'s' * (shards > 1)}"
            shares[name] = []
            for _ in range(rounds):
                settings = "training.profile=native", f"training.shards={shards}"
                rare = "training.checkpoint_every=1000000"
                with folder() as runs:
                    process = train(420, network, *settings, rare, runs=runs, probe="trace/10")
                at = partial(_excess, process.done, length=10)
                shares[name] += map(at, range(50, 400, 20))
    return Table(
        "trace", ["", "the trace costs", "quartiles", "pairs"], _share_rows(shares), shares
    )


def _excess(done: list[float], start: int, *, length: int) -> float:
    """Return how much longer ``length`` steps from ``start`` take than those before and after."""
    edges = [done[start + offset * length - 1] for offset in (-1, 0, 1, 2)]
    before, measured, behind = (b - a for a, b in pairwise(edges))
    return 2 * measured / (before + behind) - 1


def _share_rows(shares: dict[str, list[float]]) -> list[list[str]]:
    rows = []
    for name, values in shares.items():
        median, low, high = middle(values)
        spread = f"{low:.2%} to {high:.2%}"
        rows.append([name, f"{median:.2%}", spread, str(len(values))])
    return rows


def start(rounds: int) -> Table:
    """Measure the seconds to the first step, beyond importing torch alone."""
    torch = "import json, time, torch; print(json.dumps({'done': [time.monotonic()]}))"
    numbers = count()

    def first_step(recipe: str, runs: Path) -> float:
        return train(1, recipe, runs=runs / str(next(numbers))).first_step

    with folder() as runs:
        cases: dict[str, Case] = {"import torch": lambda: child("-c", torch).first_step}
        for recipe in ("digits/base", "apparel/base"):
            cases[recipe] = partial(first_step, recipe, runs)
        for case in cases.values():
            case()  # prepares the data and the compiled modules
        found = in_turn(cases, rounds)
    rows = [
        [name, f"{middle(values)[0]:.2f} s", f"{excess(found, name, 'import torch'):.2f} s"]
        for name, values in found.items()
    ]
    return Table("start", ["", "to the first step", "over import torch"], rows, found)


def parts(rounds: int) -> Table:
    """Seconds of a start by part; the laws' are those that no training without Lockstep has."""
    seconds: dict[str, dict[str, list[float]]] = {}
    recipes = ("digits/base", "apparel/base")
    with folder() as runs:
        for number in range(rounds + 1):
            for recipe in recipes:
                told = train(1, recipe, runs=runs / str(number), probe="parts").told["parts"]
                for part, value in told.items() if number else ():  # the first prepares the data
                    seconds.setdefault(part, {}).setdefault(recipe, []).append(value)
    rows = [
        [part, *(f"{statistics.median(values[recipe]) * 1000:.0f} ms" for recipe in recipes)]
        for part, values in seconds.items()
    ]
    return Table("parts", ["part of a start", *recipes], rows, seconds)


def resume(rounds: int) -> Table:
    """Measure the seconds to the first step of a resumed and a new run; check the result."""
    numbers, compared = count(), 5
    with folder() as runs:
        # Nine checkpoints, and beyond the last of them the trace of a run that never stopped.
        kept = "training.checkpoint_every=43", "training.keep_checkpoints=20"
        whole = train(400, "cnn", *kept, runs=runs)
        assert whole.told["steps_per_epoch"] == 430, whole.told
        run = runs / whole.told["run"]
        expected = trace.read(run / "trace.bin")
        same: dict[str, bool] = {}

        def resumed(name: str, step: int) -> float:
            copy = runs / str(next(numbers))
            if step:
                shutil.copytree(run, copy / run.name, symlinks=True)
                for checkpoint in (copy / run.name / "checkpoints").glob("0*"):
                    if int(checkpoint.name) != step:
                        shutil.rmtree(checkpoint)
            process = train(compared, "cnn", runs=copy)
            assert process.told["first"] == step, process.told
            found = trace.read(copy / run.name / "trace.bin")
            equal = found.tobytes() == expected[: step + compared].tobytes()
            same[name] = same.get(name, True) and equal
            return process.first_step

        places = {"fresh start": 0} | {f"at {n} %": 43 * n // 10 for n in (10, 50, 90)}
        cases = {name: partial(resumed, name, step) for name, step in places.items()}
        found = in_turn(cases, rounds)
    rows = [
        [
            name,
            f"{statistics.median(values):.2f} s",
            f"{excess(found, name, 'fresh start'):+.2f} s",
            "equal" if same[name] else "**NOT EQUAL**",
        ]
        for name, values in found.items()
    ]
    head = [
        "CNN, resumed",
        "to the first step",
        "over a fresh start",
        f"samples and bits of the next {compared} steps",
    ]
    measured: dict[str, Any] = {"seconds": found, "equal": same}
    return Table("resume", head, rows, measured)


def order(rounds: int) -> Table:
    """Measure the order's cost for a batch at 10^12 and 10^3 samples, also after a resume."""
    import torch

    size, stretch = 128, 32

    def batches(samples: int) -> Batches:
        nothing = np.broadcast_to(np.int64(0), samples)  # as long as that, and takes no memory
        split = Split(nothing, nothing)
        return Batches(
            split, lambda raw, _: torch.from_numpy(raw), batch_size=size, shards=1, seed=42
        )

    def going_on(samples: int) -> float:
        known = batches(samples)
        began = time.perf_counter()
        for step in range(200 * stretch):
            known.ids(step)
        return (time.perf_counter() - began) / (200 * stretch) * 1e6

    def resumed(samples: int) -> float:
        first = -(-samples // size) // 2
        began = time.perf_counter()
        for number in range(200):
            known = batches(samples)
            for step in range(first + number, first + number + stretch):
                known.ids(step)
        return (time.perf_counter() - began) / (200 * stretch) * 1e6

    cases: dict[str, Case] = {}
    for samples, name in ((10**3, "10^3"), (10**12, "10^12")):
        cases[f"going on, {name}"] = partial(going_on, samples)
        cases[f"resumed, {name}"] = partial(resumed, samples)
    found = in_turn(cases, rounds)
    rows = []
    for kind, title in (
        ("going on", f"one of {200 * stretch:,} in turn"),
        ("resumed", f"one of the first {stretch} after a resume in mid-epoch"),
    ):
        low, high = (statistics.median(found[f"{kind}, {name}"]) for name in ("10^3", "10^12"))
        times = ratio(found, f"{kind}, 10^12", f"{kind}, 10^3")
        rows.append([title, f"{low:.1f} µs", f"{high:.1f} µs", f"{times:.2f}"])
    head = [f"the samples of a batch of {size}", "of 10^3", "of 10^12", "ratio"]
    return Table("order", head, rows, found)


def listing(rounds: int) -> Table:
    """Measure ``python -m lockstep runs`` with 10,000 finished runs and with one."""
    with folder() as runs:
        settings = "training.epochs=1", "--runs", str(runs / "one")
        words = [sys.executable, "-m", "lockstep"]
        train_one = [*words, "train", "digits/base", *settings]
        subprocess.run(train_one, cwd=ROOT, check=True, capture_output=True)
        (run,) = (runs / "one").iterdir()
        for number in range(10_000):
            copy = runs / "many" / f"{run.name[:-8]}{number:08x}"
            copy.mkdir(parents=True)
            for name in ("identity.json", "receipt.json"):
                shutil.copy(run / name, copy)

        def listed(which: str, *more: str) -> float:
            began = time.monotonic()
            every = [*words, "runs", *more, "--runs", str(runs / which)]
            subprocess.run(every, cwd=ROOT, check=True, capture_output=True)
            return time.monotonic() - began

        cases: dict[str, Case] = {
            "1 run": partial(listed, "one"),
            "10,000 runs: the newest 50": partial(listed, "many"),
            "10,000 runs: `--all`": partial(listed, "many", "--all"),
            "10,000 runs: `--json`, all": partial(listed, "many", "--json"),
        }
        found = in_turn(cases, rounds)
    rows = [[name, f"{statistics.median(values):.2f} s"] for name, values in found.items()]
    return Table("runs", ["`invoke runs` of", "seconds"], rows, found)
