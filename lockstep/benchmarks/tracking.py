"""What the view in MLflow costs a training that is followed."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path

from lockstep.benchmarks.measure import ROOT, Table, folder, in_turn, middle, ratio

NAMES = {"on": "followed into MLflow (SQLite)", "off": "LOCKSTEP_TRACK=off"}


def tracking(rounds: int) -> Table:
    """Samples a second of two epochs of apparel/base, with a worker for each core."""
    numbers = count()

    def rate(runs: Path, switch: str) -> float:
        place = runs / str(next(numbers))
        settings = "training.epochs=2", "training.checkpoint_every=100"
        words = [sys.executable, "-m", "lockstep", "train", "apparel/base", *settings, "--json"]
        variables = os.environ | {"LOCKSTEP_TRACK": switch, "MLFLOW_TRACKING_URI": ""}
        done = subprocess.run(
            [*words, "--runs", str(place)], cwd=ROOT, env=variables, capture_output=True, check=True
        )
        if switch == "on":
            _wait_for_the_rest(place)
        found: float = json.loads(done.stdout)["timing"]["samples_per_second"]
        return found

    with folder() as runs:
        found = in_turn({NAMES[switch]: partial(rate, runs, switch) for switch in NAMES}, rounds)
    rows = []
    for name, rates in found.items():
        median, low, high = middle(rates)
        part = f"{ratio(found, name, NAMES['off']):.3f}"
        rows.append([name, f"{median:,.0f}", f"{low:,.0f} to {high:,.0f}", part])
    head = ["apparel/base, 2 epochs", "samples/s", "quartiles", "of off"]
    return Table("tracking", head, rows, found)


def _wait_for_the_rest(place: Path) -> None:
    """Let the follower send what is left and end, so that it disturbs nobody after it."""
    log = place / ".tracking" / "log"
    while "finished" not in log.read_text():
        time.sleep(0.5)
    time.sleep(2)
