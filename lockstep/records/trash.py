"""Deleting runs: by one rename into a trash folder first, for good only from there."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lockstep.ground.errors import RunError, nearest
from lockstep.ground.files import flush_folder, held, is_held, write_errors
from lockstep.records.run import Run, refuse_nameless, runs

NAME = ".trash"  # in the folder of the runs; a name with a dot is in no list of runs
_NUMBER = re.compile(r"~\d+$")


def refuse_undeletable(run: Run) -> None:
    """Raise RunError if a run is running, or is in the trash."""
    if run.folder.parent.name == NAME:
        raise RunError(f"{run.folder}: is in the trash; `delete --purge {run.name}` ends it.")
    if is_held(run.folder):
        raise RunError(f"{run.name}: is running; stop it first (Ctrl-C, or SIGTERM), then delete.")


def delete(run: Run) -> Path:
    """Move a run into the trash beside it; where it is now.

    If the trash has the name already, the run gets a number after it. Raises RunError if it runs.
    """
    trash = run.folder.parent / NAME
    with write_errors(trash):
        trash.mkdir(exist_ok=True)
    with _held(trash):
        refuse_undeletable(run)
        target, number = trash / run.name, 1
        while target.exists():
            number += 1
            target = trash / f"{run.name}~{number}"
        _move(run.folder, target)
    return target


def trashed(names: Sequence[str], folder: Path) -> list[Run]:
    """The runs in the trash of a folder of runs: those of the names or their beginnings, or all.

    Raises RunError for a name that is not there, or that several begin with.
    """
    known = {run.name: run for run in runs(folder / NAME)}
    if not names:
        return list(known.values())
    found = {}
    for name in names:
        given = Path(name).name or name
        refuse_nameless(given)
        fitting = [given] if given in known else [one for one in known if one.startswith(given)]
        if len(fitting) != 1:
            listed = ", ".join(fitting or known) or "nothing"
            raise RunError(
                f"{given}: found {len(fitting)} such runs in {folder / NAME}, expected one."
                f"{nearest(given, known)} (it has {listed})"
            )
        found[fitting[0]] = known[fitting[0]]
    return list(found.values())


def restore(run: Run) -> Path:
    """Move a run out of the trash, back to its name; where it is now.

    Raises RunError if the name was taken since.
    """
    trash = run.folder.parent
    target = trash.parent / _NUMBER.sub("", run.name)
    with _held(trash):
        if target.exists():
            raise RunError(
                f"{run.name}: cannot be restored, {target} is there again; move or delete that."
            )
        _move(run.folder, target)
    return target


def purge(gone: Iterable[Run], folder: Path) -> None:
    """Remove runs from the trash for good, and what a purge that was killed had left."""
    trash = folder / NAME
    if not trash.exists():
        return
    with _held(trash):
        _remove_parts(trash)
        for run in gone:  # killed after this, it leaves no half run under a run's name
            _move(run.folder, trash / f".{run.name}.part")
        _remove_parts(trash)


def _remove_parts(trash: Path) -> None:
    for part in trash.glob(".*.part"):
        shutil.rmtree(part)


@contextmanager
def _held(trash: Path) -> Iterator[None]:
    with write_errors(trash), held(trash, lambda _: None):
        yield


def _move(source: Path, target: Path) -> None:
    os.rename(source, target)
    for folder in {source.parent, target.parent}:
        flush_folder(folder)
