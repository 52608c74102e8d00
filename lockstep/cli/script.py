"""The verb that runs a team's own programs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.cli.verbs import Verbs, count, said
from lockstep.ground.console import show

if TYPE_CHECKING:
    from lockstep.script.story import Done

_MOST = 5  # outputs that are named


def add_to(verbs: Verbs) -> None:
    """Add run."""
    verb = verbs.add(run, runs=True)
    verb.add_argument("--seed", type=seed, default=0, metavar="N", help="of all random numbers")
    text = "of each numerical library; they may change the bits, so they are in the identity"
    verb.add_argument("--threads", type=count, default=1, metavar="N", help=text)
    text = "of the run; that of the file or module if it is left out"
    verb.add_argument("--name", default="", metavar="NAME", help=text)
    text = "python FILE.py ..., python -m MODULE ... or FILE.py ..."
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help=text)


def seed(text: str) -> int:
    """A seed, for argparse."""
    if not 0 <= (number := int(text)) < 1 << 63:
        raise ValueError
    return number


def run(options: argparse.Namespace) -> int:
    """Run a Python program of yours, seeded and watched, and record what it read and wrote."""
    from lockstep.ground.place import Place
    from lockstep.script.command import program
    from lockstep.script.story import run_script
    from lockstep.tracking import follower

    words = options.command[1:] if options.command[:1] == ["--"] else options.command
    place = Place.default(options.runs)
    named = program(
        words, Path.cwd(), seed=options.seed, threads=options.threads, name=options.name
    )
    followed = follower.start(place.runs)
    done = run_script(named, place, said, sys.stderr.buffer if options.json else None)
    for line in _lines(done):
        said(line)
    if options.json and not done.code:
        show((done.run.folder / "receipt.json").read_text(), end="")
    if followed and (problem := follower.problem(place.runs)):
        said(f"warning: not in MLflow yet: {problem}")
    return done.code


def _lines(done: "Done") -> list[str]:
    """What to say of a program that ended; aside from its own output."""
    if done.code and done.earlier:
        return [f"failed with exit code {done.code}; {done.earlier.name}, which finished, is kept"]
    if done.code:
        return [f"run {done.run.folder}", f"{done.run.state} (exit code {done.code})"]
    assert done.run.script
    receipt = done.run.script.finished_receipt()
    outputs = [*receipt["results"]["outputs"]]
    more = f" and {len(outputs) - _MOST} more" if len(outputs) > _MOST else ""
    lines = [f"run {done.run.folder}"]
    lines += [f"outputs {', '.join(outputs[:_MOST]) or 'none'}{more}"]
    lines += [f"not covered: {reason}" for reason in receipt["level"]["lowered"]]
    if done.differing:
        assert done.earlier
        lines.append(
            f"WARNING: other bits than {done.earlier.name}, of the same identity: "
            f"{', '.join(done.differing[:_MOST])}; `invoke compare {done.earlier.name} "
            f"{done.run.name}` shows where"
        )
    elif done.earlier:
        lines.append("same bits as when it was run before")
    return lines
