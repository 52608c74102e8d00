"""Verbs on a single run: accept, check out, delete."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lockstep.cli.verbs import Verbs, run_of, said
from lockstep.ground.console import show
from lockstep.ground.errors import RunError, SettingError

if TYPE_CHECKING:
    from lockstep.records.run import Run


def add_to(verbs: Verbs) -> None:
    """Add accept, checkout and delete."""
    verb = verbs.add(accept, runs=True)
    verb.add_argument("run", metavar="RUN")
    text = "a budget besides, as test.accuracy='>= 0.95'; may be repeated"
    verb.add_argument("--set", action="append", default=[], metavar="MEASURE=BOUND", help=text)
    verb = verbs.add(checkout, runs=True)
    verb.add_argument("run", metavar="RUN")
    verb.add_argument("folder", metavar="DIR", help="a new folder")
    verb = verbs.add(delete, runs=True)
    verb.add_argument("names", nargs="*", metavar="RUN")
    verb.add_argument("-y", "--yes", action="store_true", help="do not ask")
    way = verb.add_mutually_exclusive_group()
    way.add_argument("--restore", action="store_true", help="restore from the trash")
    text = "remove from the trash permanently: the runs named, or all"
    way.add_argument("--purge", action="store_true", help=text)


def accept(options: argparse.Namespace) -> int:
    """Measure a run against the budgets of its recipe; exit 1 if it does not keep one."""
    from lockstep.config.budgets import MEASURES
    from lockstep.ground import console
    from lockstep.ground.place import Place
    from lockstep.publishing import acceptance
    from lockstep.records.receipt import metrics_of

    place = Place.default(options.runs)
    run = run_of(options.run, place.runs)
    budgets = acceptance.budgets(run, options.set)
    if not budgets:
        names = [*metrics_of(run.finished_receipt()), *MEASURES]
        raise SettingError(
            f"{run.name}: its recipe states no budgets; state one by --set {names[0]}='>= 0.92', "
            f"or some in the recipe's section accept (there are {', '.join(names)})"
        )
    findings = acceptance.findings(run, budgets, place, console.watch())
    accepted = all(one.met for one in findings)
    if options.json:
        rows = [
            {"measure": one.measure, "found": one.value, "wanted": one.expected, "met": one.met}
            for one in findings
        ]
        show(json.dumps({"run": run.name, "accepted": accepted, "budgets": rows}, indent=2))
    else:
        verdict = {True: "met", False: "NOT met"}
        cells = [
            [one.measure, acceptance.shown(one.value), one.expected, verdict[one.met]]
            for one in findings
        ]
        console.table(["measure", "found", "expected", ""], cells)
        show("accepted" if accepted else "NOT accepted")
    return 0 if accepted else 1


def checkout(options: argparse.Namespace) -> None:
    """Copy a run's original source and weights into a new folder, ready to use."""
    import shlex
    from pathlib import Path

    from lockstep.ground.place import Place
    from lockstep.records.checkout import checkout as lay_out

    place, folder = Place.default(options.runs), Path(options.folder)
    chosen = run_of(options.run, place.runs)
    where = lay_out(chosen, folder)
    _say_whose_code(chosen)
    python = f"{shlex.quote(sys.executable)} -m lockstep"
    data = f"LOCKSTEP_DATA={shlex.quote(str(place.data.absolute()))}"
    run = shlex.quote(str(where.relative_to(folder.resolve())))
    commands = {
        "go": f"cd {shlex.quote(str(folder.resolve()))}",
        "evaluate": f"{data} {python} evaluate {run}",
        "predict": f"{python} predict {run} INPUT",
    }
    if chosen.script:
        command = chosen.script.named["command"]
        words = ["run", "--seed", str(command["seed"]), "--threads", str(command["threads"]), "--"]
        words += ["python", *command["words"]]
        go = shlex.quote(str(folder.resolve() / command["folder"]))
        commands = {"go": f"cd {go}", "run": f"{python} {shlex.join(words)}"}
    if options.json:
        show(json.dumps({"folder": str(folder.resolve()), "run": str(where)} | commands, indent=2))
    else:
        show(f"checked out {where.name} with its source; to use it:")
        show("\n".join(commands.values()))


def _say_whose_code(run: "Run") -> None:
    """Say which files of a run that was checked out nobody here has seen before they run."""
    from lockstep.records import provenance
    from lockstep.script import reproducing

    names = reproducing.unknown(run) if run.script else provenance.unknown(run, engine=True)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        said(
            f"warning: {', '.join(names[:3])}{more} not known in this checkout; the commands below "
            "run that code with all that you may do, so read it first."
        )


def delete(options: argparse.Namespace) -> int:
    """Move runs to the trash, restore them, or remove them permanently.

    Exit code 1 if the answer to the question is no.
    """
    from lockstep.ground.place import Place
    from lockstep.records import trash
    from lockstep.records.run import find_run

    folder = Place.default(options.runs).runs
    if not options.names and not options.purge:
        raise RunError("delete: found no RUN, expected some, or --purge to empty the trash.")
    if options.restore:
        found = trash.trashed(options.names, folder)
        return _tell(options, "restored", [str(trash.restore(run)) for run in found])
    if options.purge:
        found, question = trash.trashed(options.names, folder), "remove for good"
    else:
        named = [find_run(name, folder) for name in options.names]  # of several, none is meant
        found, question = list({run.folder: run for run in named}.values()), "move into the trash"
        for run in found:
            trash.refuse_undeletable(run)
    if found and not options.yes and not _agreed(question, found):
        show("nothing was deleted", file=sys.stderr)
        return 1
    if options.purge:
        trash.purge(found, folder)
        return _tell(options, "removed", [run.name for run in found])
    return _tell(options, "deleted", [str(trash.delete(run)) for run in found])


def _agreed(question: str, found: Sequence["Run"]) -> bool:
    """Ask, with the names of the runs. Raises RunError where nobody can answer."""
    names = ", ".join(run.name for run in found)
    if not sys.stdin.isatty():
        raise RunError(f"delete: no terminal to ask on; with --yes it would {question}: {names}.")
    show(f"{question}: {names}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell(options: argparse.Namespace, done: str, what: Sequence[str]) -> int:
    if options.json:
        show(json.dumps({done: list(what)}, indent=2))
    else:
        for one in what or ["nothing: the trash is empty"]:
            show(f"{done} {one}")
    return 0
