"""Verbs on a team's tree: create it, upgrade its engine."""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.cli.verbs import Verbs
from lockstep.ground.console import show

if TYPE_CHECKING:
    from lockstep.records.run import Run
    from lockstep.workspace.golden import Bits, Golden
    from lockstep.workspace.upgrade import Report


def add_to(verbs: Verbs) -> None:
    """Add init and upgrade."""
    verb = verbs.add(init)
    verb.add_argument("path", nargs="?", metavar="PATH", help="a new folder; without, in place")
    verb.add_argument("--name", help="of your package; default: the folder's name")
    verb = verbs.add(upgrade)
    verb.add_argument("tag", nargs="?", default="", metavar="TAG", help="default: the newest")
    text = "the engine's repository; default: [tool.lockstep] upstream of pyproject.toml"
    verb.add_argument("--from", dest="source", default="", metavar="REPOSITORY", help=text)
    verb.add_argument("--dry-run", action="store_true", help="only show what would change")
    text = "leave Pipfile.lock to a later `invoke lock`"
    verb.add_argument("--no-lock", action="store_true", help=text)
    text = "neither compare bits nor run the contract tests"
    verb.add_argument("--no-test", action="store_true", help=text)


def init(options: argparse.Namespace) -> None:
    """Make your own tree in a new folder, or give this clone's package your own name."""
    from lockstep.ground import console
    from lockstep.ground.errors import WorkspaceError
    from lockstep.workspace.start import rename, start

    if options.path:
        made = start(Path(options.path), options.name or "")
    elif options.name:
        made = rename(options.name, console.Lines(sys.stderr).say)
    else:
        raise WorkspaceError(
            "init: neither a folder nor a name was named; `init ../acme` makes a tree beside this "
            "one, `init --name acme` renames this clone's package."
        )
    if options.json:
        show(json.dumps(vars(made) | {"folder": str(made.folder)}, indent=2))
        return
    folder = made.folder
    show(f"{folder}: package {made.package}, engine in lockstep/")
    if not made.committed:
        commit = f"git -C {shlex.quote(str(folder))} commit -m 'Our models, with Lockstep'"
        show(f"not committed yet: {commit}")
    show(f"train: {shlex.quote(str(folder / 'workbench'))} train --seed 42")


def upgrade(options: argparse.Namespace) -> int:
    """Take a newer engine: replace lockstep/, merge what both sides edit, compare bits, test."""
    # All that is needed is imported first: the files of the engine change while this runs.
    from lockstep.ground import console
    from lockstep.ground.home import ROOT
    from lockstep.ground.place import Place
    from lockstep.records.run import runs as all_runs
    from lockstep.workspace import golden
    from lockstep.workspace.upgrade import Steps, upgrade

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    say = console.Lines(sys.stderr).say
    runs = all_runs(Place.default().runs)
    _refuse_running(runs)

    def before(report: "Report", tree: Path) -> dict[str, Any]:
        unfinished = [run for run in runs if run.state.split()[0] in ("stopped", "failed")]
        before: dict[str, Any] = {"stopped": [run.name for run in unfinished]}
        if any(path.startswith("lockstep/") for path in report.conflicts):
            return before
        before["files"] = _differing(_making(ROOT), _making(tree))
        if options.no_test or options.dry_run:
            return before
        say("training the golden run with the present engine")
        return before | {"golden": vars(golden.golden(ROOT))}

    steps = Steps(lock=not options.no_lock, publish=not options.dry_run, before=before)
    report, kept = upgrade(ROOT, options.tag, options.source, steps, say)
    bits, passed = None, None
    if report.changes and "files" in kept:
        after = golden.Golden()
        if "golden" in kept and not report.conflicts:
            _refresh(ROOT, say)
            say("training the golden run with the new engine")
            after = golden.golden(ROOT)
            passed = _contract_tests(ROOT, say) and not after.failure
        bits = _bits(kept, after)
    if options.json:
        content = {"upgrade": vars(report), "bits": bits and vars(bits), "tests": passed}
        show(json.dumps(content | {"published": not options.dry_run}, indent=2))
    else:
        show("\n".join(_summary(report, bits, passed, options.dry_run)))
    return 1 if report.conflicts or passed is False else 0


def _refuse_running(runs: "Sequence[Run]") -> None:
    from lockstep.ground.errors import WorkspaceError

    for run in runs:
        if run.state == "running":
            raise WorkspaceError(
                f"{run.folder}: is training, with the engine that would be replaced; stop it "
                "(Ctrl-C saves) or wait, then run the same command."
            )


def _making(root: Path) -> dict[str, str]:
    """Path to digest, by what it does, of each file of a tree's engine that makes bits."""
    from lockstep.records import source

    engine = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.glob("lockstep/**/*.py")
    }
    return source.digests(source.closure(source.among(engine), "lockstep", source.MAKING))


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def _bits(kept: Mapping[str, Any], after: "Golden") -> "Bits":
    from lockstep.workspace.golden import Bits, Golden

    before = Golden(**kept.get("golden", {}))
    packages = []
    if before.packages is not None and after.packages is not None:
        packages = _differing(before.packages, after.packages)
    return Bits(kept["files"], packages, before.weights, after.weights, kept["stopped"])


def _refresh(root: Path, say: Callable[[str], None]) -> None:
    """Update .venv to the new lock, if this process runs in it."""
    if Path(sys.prefix) == root / ".venv":
        say("bringing .venv to Pipfile.lock")
        subprocess.run([root / "workbench", "--version"], stdout=subprocess.DEVNULL)


def _contract_tests(root: Path, say: Callable[[str], None]) -> bool:
    """Run the team's tests; whether they pass, or there are none."""
    if not any(root.glob("tests/**/test_*.py")):
        return True
    say("running the contract tests in tests/")
    command = [sys.executable, "-m", "pytest", "tests"]
    variables = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=variables, stdout=sys.stderr).returncode == 0


def _summary(
    report: "Report", bits: "Bits | None", passed: bool | None, dry_run: bool
) -> Iterator[str]:
    """The lines of the result."""
    if not report.changes:
        yield f"engine {report.before}: is the one that was asked for; nothing to do"
        return
    yield f"engine {report.before} -> {report.after}{' (nothing was changed)' if dry_run else ''}"
    yield from (f"merged: {path}" for path in report.merged if path not in report.conflicts)
    yield from (f"your edit of the engine: {p}" for p in report.edited if p not in report.conflicts)
    yield from (f"note: {note}" for note in report.notes)
    yield f"Pipfile.lock: {report.lock}"
    yield from (f"  {line}" for line in report.locked)
    yield from (f"CONFLICT: {path}" for path in report.conflicts)
    yield from bits.lines() if bits else ()
    if passed is not None:
        yield f"contract tests: {'passed' if passed else 'FAILED, see above'}"
    if dry_run:
        return
    lock = "invoke lock, " if report.lock.startswith("not made") else ""
    if report.conflicts:
        yield f"next: resolve each conflict, `git add` it, {lock}./workbench test, git commit"
    else:
        yield f"next: git diff --staged, {lock}./workbench test, git commit"
    yield "to take it back: git reset --hard"
