"""``python -m lockstep.benchmarks throughput``, or ``all --write`` for the tables of the README."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from lockstep.benchmarks import cases, containers, faults, folds, serving, tracking, workers
from lockstep.benchmarks.measure import Table, machine

HERE = Path(__file__).parent

# Rounds of each: what makes the median steady within half an hour for all; for faults, kills;
# for fuzz, requests; for mixed, minutes.
CASES: dict[str, tuple[Callable[[int], Table], int]] = {
    "throughput": (cases.throughput, 5),
    "checkpoint": (cases.checkpoint, 5),
    "trace": (cases.tracing, 3),
    "start": (cases.start, 7),
    "parts": (cases.parts, 7),
    "resume": (cases.resume, 5),
    "shards": (workers.shards, 3),
    "workers": (workers.workers, 5),
    "order": (cases.order, 5),
    "runs": (cases.listing, 5),
    "tracking": (tracking.tracking, 7),
    "containers": (containers.containers, 3),
    "folds": (folds.folds, 2),
    "faults": (faults.table, 100),
    "serving": (serving.serving, 3),
    "fuzz": (serving.fuzz, 10_000),
    "mixed": (serving.mixed, 30),
}
APART = {"mixed"}  # takes half an hour alone, whatever is measured; not among all


def main() -> None:
    """Measure and print the tables; write them if asked to."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*CASES, "all"])
    parser.add_argument(
        "--rounds",
        "--kills",
        type=int,
        help="fewer for a rough look, at least 2; for faults, the number of kills; for fuzz, of "
        "requests; for mixed, of minutes",
    )
    parser.add_argument("--json", action="store_true", help="print what was measured in full")
    parser.add_argument(
        "--write", action="store_true", help="put the tables into the README beside this file"
    )
    options = parser.parse_args()

    os.environ["LOCKSTEP_TRACK"] = "off"  # but where it is what is measured
    os.environ["LOCKSTEP_PROJECT"] = "lockstep.examples"
    where = machine()
    tables = []
    for name, (measure, rounds) in CASES.items():
        if options.name == name or (options.name == "all" and name not in APART):
            tables.append(measure(options.rounds or rounds))
            if options.write:  # at once, so that what is cut off later does not cost this one
                write(tables[-1:], _line(where))
    results = {"machine": where, "measured": {table.name: table.measured for table in tables}}
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        print(_line(where), *(table.markdown() for table in tables), sep="\n\n")
    if options.name == "all":
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def write(tables: list[Table], line: str) -> None:
    """Write each table and its machine between the table's markers in the README."""
    readme = HERE / "README.md"
    text = readme.read_text()
    for table in tables:
        place = re.compile(rf"(<!-- {table.name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(text):
            sys.exit(f"{readme}: found no <!-- {table.name} --> ... <!-- end -->; put it back.")
        content = f"{table.markdown()}\n\n{line}\n"
        text = place.sub(lambda found: found[1] + content + found[2], text)  # noqa: B023
    readme.write_text(text)


def _line(where: dict[str, object]) -> str:
    commit = f"{str(where['commit'])[:8]}{' with changes' if where['dirty'] else ''}"
    return (
        f"*{where['cpu']}, {where['cores']} cores, load {where['load']} before; "
        f"Python {where['python']}, torch {where['torch']}; commit {commit}; {where['date']}.*"
    )


if __name__ == "__main__":
    main()
