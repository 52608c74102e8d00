"""``python -m lockstep.benchmarks.probe 230 train cnn ...``: the command line, timed, stopped.

After so many steps the process is told to stop as a scheduler tells it, by SIGTERM, so it saves and
ends with 143. Printed is when each step was done, as JSON. With ``trace/10`` in front every other
ten steps go without trace and digests; with ``parts``, the seconds of each part of the start are
printed as well.
"""

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lockstep import cli
from lockstep.ground import console, profiles

NETWORKS = Path(__file__).parent / "networks"


class Probe(console.Lines):
    """The plain lines of progress, with a clock."""

    def __init__(self, steps: int, block: int):
        super().__init__(sys.stderr)
        self.left, self.block, self.done = steps, block, list[float]()

    def begin(self, run: str, step: int, steps: int, steps_per_epoch: int, batch: int) -> None:
        super().begin(run, step, steps, steps_per_epoch, batch)
        self.first, self.run, self.per_epoch = step, run, steps_per_epoch
        if self.block:
            trace_every_other(self.block)

    def step(self, step: int, loss: float) -> None:
        super().step(step, loss)
        self.done.append(time.monotonic())
        if len(self.done) == self.left:
            os.kill(os.getpid(), signal.SIGTERM)


def trace_every_other(block: int) -> None:
    """Switch all that feeds the trace on and off, ``block`` steps each, beginning with off."""
    # Imported late, because torch must not be loaded before the command has set its profile.
    from lockstep.data.batches import Batches
    from lockstep.records.trace import Trace
    from lockstep.training import shards

    steps = itertools.count(1)
    on = False
    ids_digest, append, real = Batches.ids_digest, Trace.append, vars(shards)["xxhash"]

    class Digest:
        """Stands for the digest of a batch."""

        def update(self, _: Any) -> None: ...

        def intdigest(self) -> int:
            return 0

    class Hashes:
        """Stands for the module xxhash."""

        @staticmethod
        def xxh3_64(seed: int) -> Any:
            return real.xxh3_64(seed=seed) if on else Digest()

    def appended(trace: Trace, *record: Any) -> None:
        nonlocal on
        if on:
            append(trace, *record)
        on = next(steps) // block % 2 == 1

    Batches.ids_digest = lambda self, step: ids_digest(self, step) if on else 0  # type: ignore
    Trace.append = appended  # type: ignore
    shards.xxhash = Hashes  # type: ignore


def timed_parts() -> dict[str, float]:
    """Measure the parts of a start from now on; return the seconds of each, as they come."""
    profiles.prefer("portable")  # before torch is loaded
    from lockstep.ground import wheels
    from lockstep.run import story

    seconds: dict[str, float] = {}

    def measure(module: Any, name: str, title: str) -> None:
        function = getattr(module, name)

        def measured(*words: Any, **named: Any) -> Any:
            began = time.monotonic()
            try:
                return function(*words, **named)
            finally:
                seconds[title] = seconds.get(title, 0.0) + time.monotonic() - began

        setattr(module, name, measured)

    measure(wheels, "edited", "installed files beside RECORD")
    measure(story, "rehearse", "rehearsal")
    measure(story, "doubts", "self-test and watched operations")
    measure(story, "open_run", "folder and source archive")
    return seconds


def main(words: list[str]) -> int:
    """Run the command; 0 if it was stopped as intended."""
    parts = timed_parts() if words[0] == "parts" and words.pop(0) else {}
    block = int(words.pop(0).partition("/")[2]) if words[0].startswith("trace/") else 0
    probe = Probe(int(words.pop(0)), block)
    network = NETWORKS / "models" / words[1].partition("/")[0]
    name = "lockstep.benchmarks.networks" if network.exists() else "lockstep.examples"
    os.environ["LOCKSTEP_PROJECT"] = name
    console.watch = lambda: probe
    code = cli.main(words)
    if int(os.environ.get("RANK", 0)):  # a worker that is not the first was told nothing
        os._exit(0 if code == 128 + signal.SIGTERM else code or 1)
    print(
        json.dumps(
            {
                "first": probe.first,
                "run": probe.run,
                "steps_per_epoch": probe.per_epoch,
                "done": probe.done,
                "parts": parts,
            }
        )
    )
    sys.stdout.flush()
    code = 0 if code == 128 + signal.SIGTERM else code or 1
    return os._exit(code) if "RANK" in os.environ else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
