"""Verbs on existing runs: list, compare, reproduce."""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lockstep.cli.containers import in_image
from lockstep.cli.verbs import Verbs, add_image, count, run_of, said
from lockstep.ground import home
from lockstep.ground.console import show
from lockstep.ground.errors import RunError, nearest, printable

if TYPE_CHECKING:
    from lockstep.ground.place import Place
    from lockstep.records.compare import Comparison
    from lockstep.records.differences import Differences
    from lockstep.records.outputs import OutputComparison
    from lockstep.records.run import Run


def add_to(verbs: Verbs) -> None:
    """Add runs, compare, diff and reproduce."""
    verb = verbs.add(runs, runs=True)
    verb.add_argument("--all", action="store_true", help="list all, not only 50")
    verb.add_argument("--model", metavar="MODEL", help="only of this model")
    text = "only where this holds, as test.accuracy>0.92 or training.lr==0.1; may be repeated"
    verb.add_argument("--where", action="append", default=[], metavar="CONDITION", help=text)
    text = "by a metric or setting, downwards after a -, as -test.accuracy"
    verb.add_argument("--sort", default="", metavar="[-]KEY", help=text)
    verb = verbs.add(compare, runs=True)
    verb.add_argument("a", metavar="A")
    verb.add_argument("b", metavar="B")
    verb.add_argument(
        "--report", metavar="FILE", help="write a page that shows where they first differ"
    )
    verb = verbs.add(diff, runs=True)
    verb.add_argument("a", metavar="A")
    verb.add_argument("b", metavar="B")
    verb.add_argument("--source", action="store_true", help="print the source's unified diff")
    verb = verbs.add(reproduce, runs=True)
    verb.add_argument("run", metavar="RUN")
    verb.add_argument("--steps", type=count, metavar="N", help="train only this many steps")
    verb.add_argument(
        "--trust-code",
        action="store_true",
        help="run code of the run that this checkout does not know, without asking",
    )
    add_image(verb)


def runs(options: argparse.Namespace) -> None:
    """List the runs, newest first, or those that conditions choose, in another order."""
    from lockstep.ground.console import table
    from lockstep.ground.place import Place
    from lockstep.records.run import runs as all_runs

    folder = Place.default(options.runs).runs
    everything = all_runs(folder)
    found = _chosen(everything, options)
    shown = len(found) if options.all or options.json else 50
    lines = [line() for line in found[:shown]]
    if options.json:
        show(json.dumps(lines, indent=2))
    elif lines:
        rows = [
            ["" if value is None else printable(str(value)) for value in line.values()]
            for line in lines
        ]
        table(list(lines[0]), rows)
        if more := len(found) - len(lines):
            order = "more" if options.sort else "older"
            show(f"and {more:,} {order}; --all lists them", file=sys.stderr)
    elif everything:
        show(f"none of the {len(everything):,} runs in {folder} is so")
    else:
        show(f"no runs in {folder}; `invoke train --seed 42` makes one")


def _chosen(
    runs: list["Run"], options: argparse.Namespace
) -> list[Callable[[], Mapping[str, Any]]]:
    """Return the line of each run that the options choose, in their order.

    A line also has the settings and metrics that the options name.
    """
    if options.model:
        _refuse_unknown_model(options.model, runs)
        runs = [run for run in runs if run.summary()["model"] == options.model]
    if not (options.where or options.sort):
        return [run.summary for run in runs]
    from lockstep.records import selection

    conditions = [selection.condition(given) for given in options.where]
    found = selection.choose(runs, conditions, options.sort, _settings())
    named = dict.fromkeys([*(one.name for one in conditions), options.sort.removeprefix("-")])
    more = [name for name in named if name and name not in selection.COLUMNS]

    def line(record: selection.Record) -> Mapping[str, Any]:
        return {**record.summary, **{name: record.value(name) for name in more}}

    return [functools.partial(line, record) for record in found]


def _refuse_unknown_model(name: str, runs: list["Run"]) -> None:
    known = sorted({*home.here().models(), *(run.summary()["model"] for run in runs)} - {""})
    if name not in known:
        raise RunError(
            f"--model {name}: no such model.{nearest(name, known)} (there are "
            f"{', '.join(known)})"
        )


def _settings() -> list[str]:
    """Return the settings of all models of the project."""
    import dataclasses

    from lockstep.config.experiment import Data, Start, Training

    kinds: list[tuple[str, type]] = [("data", Data), ("training", Training), ("start", Start)]
    kinds += [("model", home.here().config_of(name)) for name in home.here().models()]
    fields = [(name, dataclasses.fields(kind)) for name, kind in kinds]
    return [f"{section}.{item.name}" for section, items in fields for item in items]


def compare(options: argparse.Namespace) -> int:
    """Say whether two runs have the same bits, or where they first differ and why; or exit 1.

    From their files alone: nothing is trained.
    """
    from pathlib import Path

    from lockstep.ground.files import write_atomically
    from lockstep.ground.place import Place
    from lockstep.records import compare as comparing

    folder = Place.default(options.runs).runs
    a, b = run_of(options.a, folder), run_of(options.b, folder)
    if a.script or b.script:
        return _compare_outputs(options, a, b)
    found = comparing.compare(a, b)
    if options.report:
        write_atomically(Path(options.report), comparing.page(a, b, found))
    if options.json:
        show(json.dumps(found.as_dict(), indent=2))
    else:
        _print_comparison(found)
    return 0 if found.same else 1


def _compare_outputs(options: argparse.Namespace, a: "Run", b: "Run") -> int:
    from lockstep.records import outputs

    found = outputs.compare(a, b)
    if options.report:
        raise RunError("--report: there is a page for runs of models only; leave out --report.")
    if options.json:
        show(json.dumps(found.as_dict(), indent=2))
    else:
        _print_verdict(found, found.details())
    return 0 if found.same else 1


def diff(options: argparse.Namespace) -> None:
    """Show two runs side by side: settings, source, data, packages, machine, metrics; what differs.

    Whether they have the same bits is what compare says.
    """
    from lockstep.ground.place import Place
    from lockstep.records.differences import differences

    folder = Place.default(options.runs).runs
    found = differences(run_of(options.a, folder), run_of(options.b, folder))
    if options.json:
        patch = {"patch": found.patch} if options.source else {}
        show(json.dumps(found.as_dict() | patch, indent=2))
    elif options.source:
        show(found.patch, end="")
    else:
        _print_differences(found)


def reproduce(options: argparse.Namespace) -> int:
    """Train a run again from its recorded source and compare bit by bit; exit 1 if they differ."""
    from lockstep.ground import console
    from lockstep.ground.place import Place

    place = Place.default(options.runs)
    run, watch = run_of(options.run, place.runs), console.watch()
    if not options.trust_code:
        options.trust_code = _is_trusted(run)
    if run.script:
        return _reproduce_script(options, run, place)
    from lockstep.data.arrays import prepared
    from lockstep.records.reproduce import reproduce as train_again

    if options.image:
        words = ["reproduce", run.name, *(["--steps", str(options.steps)] if options.steps else [])]
        words += ["--trust-code"] if options.trust_code else []
        gpus = run.parts["profile"]["device"] == "cuda"
        # Code of others, which needs a network for its data at most.
        network = run.parts["data"] not in prepared(place.data / "arrays")
        return in_image(options, words, gpus=gpus, keeps=True, network=network)
    done = train_again(
        run,
        place.data,
        prepared(place.data / "arrays"),
        watch.say,
        options.steps,
        trust=options.trust_code,
    )
    if options.json:
        show(json.dumps(done.as_dict(), indent=2))
        return 0 if done.found.same else 1
    _print_comparison(done.found)
    if not done.found.same:
        show(f"reproduced run  {done.kept}\ndifferences     {done.page}")
    return 0 if done.found.same else 1


def _is_trusted(run: "Run") -> bool:
    """Whether a person at the terminal lets code of a run that this checkout does not know run."""
    from lockstep.records import provenance
    from lockstep.records.verify import refuse_altered
    from lockstep.script import reproducing

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    refuse_altered(run)
    if not (names := (reproducing if run.script else provenance).unknown(run)):
        return False
    for name in names:
        said(f"not known in this checkout: {name}")
    show(f"run this code of {run.name} here? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _reproduce_script(options: argparse.Namespace, run: "Run", place: "Place") -> int:
    from lockstep.script.reproducing import reproduce as run_again

    for option, value in (("--steps", options.steps), ("--in", options.image)):
        if value:
            raise RunError(f"{option}: {run.name} is the run of a script; leave out {option}.")
    done = run_again(run, place, said, trust=options.trust_code)
    if options.json:
        show(json.dumps(done.as_dict(), indent=2))
        return 0 if done.found.same else 1
    _print_verdict(done.found, done.found.details())
    if done.kept:
        show(f"reproduced run  {done.kept}")
    return 0 if done.found.same else 1


def _print_comparison(found: "Comparison") -> None:
    from lockstep.records.compare import details

    _print_verdict(found, details(found))


def _print_verdict(
    found: "Comparison | OutputComparison", details: Sequence[tuple[str, str]]
) -> None:
    from lockstep.ground.console import table

    show(found.verdict)
    for name, text in details:
        show(f"{name}  {text}")
    if found.differences:
        rows = [[f"{row.part} {row.name}", row.a, row.b] for row in found.differences]
        table(["what can explain it", *_heads(found.names)], rows)


def _print_differences(found: "Differences") -> None:
    from lockstep.ground.console import table

    rows = [[f"{row.part} {row.name}", row.a, row.b] for row in found.facts]
    for file in found.files:
        about = "" if file.decides else "; decides no bit"
        lines = f"+{file.added} -{file.removed}"
        cells = {"only in A": [f"there{about}", "-"], "only in B": ["-", f"there{about}"]}
        rows.append([f"source {file.name}", *cells.get(file.change, ["", f"{lines}{about}"])])
    for metric in found.metrics:
        shown = ["-" if value is None else f"{value:.6g}" for value in (metric.a, metric.b)]
        rows.append([f"metric {metric.name}", *shown])
    if rows:
        table(["what differs", *_heads(found.names)], rows)
    else:
        names = " and ".join(map(printable, found.names))
        show(f"nothing that is recorded of {names} differs")


def _heads(names: tuple[str, str]) -> list[str]:
    return [f"{letter} {printable(name)}" for letter, name in zip("AB", names, strict=True)]
