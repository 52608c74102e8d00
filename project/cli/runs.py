"""Verbs on runs that are there: list, compare, make again."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from project.cli.images import in_image
from project.cli.verbs import Verbs, add_image, count

if TYPE_CHECKING:
    from project.records.compare import Comparison


def add_to(verbs: Verbs) -> None:
    """Add runs, compare and reproduce."""
    verbs.add(runs, runs=True).add_argument("--all", action="store_true", help="not only 50")
    verb = verbs.add(compare, runs=True)
    verb.add_argument("a", metavar="A")
    verb.add_argument("b", metavar="B")
    verb.add_argument("--report", metavar="FILE", help="write a page that shows where they part")
    verb = verbs.add(reproduce, runs=True)
    verb.add_argument("run", metavar="RUN")
    verb.add_argument("--steps", type=count, metavar="N", help="train only so far")
    add_image(verb)


def runs(options: argparse.Namespace) -> None:
    """List the runs, newest first: state, metric, seed, identity."""
    from project.console import table
    from project.place import Place
    from project.records.receipt import runs as all_runs

    folder = Place.default(options.runs).runs
    found = all_runs(folder)
    shown = len(found) if options.all or options.json else 50
    lines = [run.summary() for run in found[:shown]]
    if options.json:
        print(json.dumps(lines, indent=2))
    elif lines:
        rows = [["" if value is None else str(value) for value in line.values()] for line in lines]
        table(list(lines[0]), rows)
        if older := len(found) - len(lines):
            print(f"and {older:,} older; --all lists them", file=sys.stderr)
    else:
        print(f"no runs in {folder}; `invoke train --seed 42` makes one")


def compare(options: argparse.Namespace) -> int:
    """Say whether two runs have the same bits, or where they part and what explains it; or exit 1.

    From their files alone: nothing is trained.
    """
    from pathlib import Path

    from project.files import write_atomically
    from project.place import Place
    from project.records import compare as comparing
    from project.records.receipt import find_run

    folder = Place.default(options.runs).runs
    a, b = find_run(options.a, folder), find_run(options.b, folder)
    found = comparing.compare(a, b)
    if options.report:
        write_atomically(Path(options.report), comparing.page(a, b, found), "--report FILE")
    if options.json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        _print_comparison(found)
    return 0 if found.same else 1


def reproduce(options: argparse.Namespace) -> int:
    """Train a run again from its recorded source and compare bit by bit; exit 1 if they differ."""
    from project import console
    from project.data.arrays import prepared
    from project.place import Place
    from project.records.receipt import find_run
    from project.records.reproduce import reproduce as train_again

    place = Place.default(options.runs)
    run, watch = find_run(options.run, place.runs), console.watch()
    if options.image:
        words = ["reproduce", run.name, *(["--steps", str(options.steps)] if options.steps else [])]
        return in_image(options, words, gpus=run.parts["profile"]["device"] == "cuda", keeps=True)
    done = train_again(run, place.data, prepared(place.data / "arrays"), watch.say, options.steps)
    if options.json:
        print(json.dumps(done.as_dict(), indent=2))
        return 0 if done.found.same else 1
    _print_comparison(done.found)
    if not done.found.same:
        print(f"reproduced run  {done.kept}\nwhere they part  {done.page}")
    return 0 if done.found.same else 1


def _print_comparison(found: "Comparison") -> None:
    from project.console import table
    from project.records.compare import details

    print(found.verdict)
    for name, text in details(found):
        print(f"{name}  {text}")
    if found.differences:
        rows = [[f"{row.part} {row.name}", row.a, row.b] for row in found.differences]
        table(["what can explain it", f"A {found.names[0]}", f"B {found.names[1]}"], rows)
