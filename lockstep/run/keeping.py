"""Keeps a run: its identity, its folder, its source; and names earlier runs that it is not."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from lockstep.config.experiment import Experiment
from lockstep.data import catalog
from lockstep.data.arrays import open_dataset
from lockstep.data.dataset import Dataset
from lockstep.data.fetch import fetch
from lockstep.data.split import Fold
from lockstep.ground import environment, home, wheels, yaml_text
from lockstep.ground.digests import readable_json
from lockstep.ground.errors import Interrupted, NotOwner, RunError, WorkerLost, WriteError
from lockstep.ground.files import held, publish_folder, write_atomically, write_errors
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records import source
from lockstep.records.differences import summary
from lockstep.records.identity import SCHEMA, Deciding, Identity, Parts, Profile, identity
from lockstep.records.run import FAILURE, UNTRIED, Run, runs
from lockstep.run.distributions import loaded
from lockstep.training import selftest


def open_data(name: str, place: Place, watch: Watch, fold: Fold | None = None) -> Dataset:
    """Open a data set of the catalog, fetched and prepared if this machine does not have it yet.

    With a fold, that part of its examples is the validation split.
    """
    entry = catalog.entry(name)
    return open_dataset(
        entry,
        place.data / "arrays",
        lambda wanted: fetch(wanted, place.data, watch.say, watch.bar),
        watch.say,
        fold,
    )


def fold_of(experiment: Experiment) -> Fold | None:
    """The fold that validates, if the settings have folds."""
    data = experiment.data
    return Fold(data.fold, data.folds) if data.folds else None


def files_that_make(model: str) -> dict[str, bytes]:
    """Path and content of each source file that decides the bits of a model's training."""
    return source.of_making(home.here(), model)


def paths_of(files: dict[str, bytes]) -> set[Path]:
    """The real paths of source files on this machine."""
    here = home.here()
    bases = (home.ENGINE.parent, here.folder.parents[here.package.count(".")])
    return {(base / name).resolve() for name in files for base in bases}


def what_decides(
    experiment: Experiment, dataset: Dataset, files: dict[str, bytes], place: Place
) -> Parts:
    """All that decides the bits, by the parts of the identity; ``files`` are the source's."""
    profile: Profile = {"name": experiment.training.profile, "device": experiment.training.device}
    if experiment.training.profile == "native":
        profile["cpu"] = environment.cpu()["model"]
    if experiment.training.device == "cuda":
        profile["gpu"] = torch.cuda.get_device_name()
    return {
        "schema": SCHEMA,
        "experiment": cast(Deciding, experiment.as_dict(bits_only=True)),
        "source": source.digests(files),
        "data": dataset.digest,
        "packages": _packages(source.third_party(files, home.here().package), place.data),
        "python": environment.language(),
        "profile": profile,
    }


def packages_of(files: dict[str, bytes]) -> set[str]:
    """The packages outside of engine and project that the files import by name."""
    return {name.partition(".")[0] for name in source.third_party(files, home.here().package)}


def _packages(names: set[str], data: Path) -> dict[str, list[str]]:
    """What is loaded of the packages for training, and all that is imported by name."""
    packages = environment.packages()
    found = loaded(names, packages.locked, data)
    counted = [name for name, named in found.items() if named or name in packages.locked]
    return wheels.as_identity(counted, packages.locked)


def open_run(
    experiment: Experiment,
    files: dict[str, bytes],
    parts: Parts,
    place: Place,
    watch: Watch,
) -> tuple[Run, Callable[[], dict[str, bytes]]]:
    """Open the run's folder, made if it is not there; return it and what its first files hold."""
    identifier = identity(parts)
    known = parts["packages"].items()
    if edited := [name for name, (_, state) in known if state.startswith(wheels.EDITED)]:
        watch.say(
            f"WARNING: installed files were edited ({', '.join(edited[:5])}); this is part of the "
            "run's identity. `invoke doctor` lists them; remove .venv, and ./workbench restores it."
        )
    if drifted := [name for name, (_, state) in known if state.startswith(wheels.DRIFTED)]:
        watch.say(
            f"WARNING: packages are not as locked ({', '.join(drifted[:5])}); this is part of the "
            "run's identity. `invoke doctor` lists all, ./workbench restores the locked ones."
        )
    run = run_named(experiment, identifier, place)

    @functools.cache  # a finished run that is only reported needs none of them
    def contents() -> dict[str, bytes]:
        # What decides the bits is in the identity; with the rest the archive can train by itself.
        here = home.here()
        kept = source.of_verb(here) | source.data_files(
            here, catalog.file_of(experiment.data.name), selftest.GOLDEN
        )
        return {
            "experiment.yaml": _yaml(experiment.as_dict() | {"package": here.package}),
            "source.zip": source.archive(kept | files),
            "parts.json": readable_json(parts),
            "identity.json": readable_json(identifier),
        }

    with write_errors(place.runs):
        place.runs.mkdir(parents=True, exist_ok=True)
        with held(place.runs, lambda _: None):
            if not run.folder.exists():
                for line in others(experiment, parts, place.runs):
                    watch.say(line)
                publish_folder(run.folder, lambda part: write(part, contents() | {UNTRIED: b""}))
    found = run.identity if (run.folder / "identity.json").exists() else None
    if found != identifier:
        raise RunError(
            f"{run.folder}: found a run of identity {found['digest'][:12] if found else 'none'}, "
            f"expected "
            f"{identifier['digest'][:12]}; the folder was put there by hand. Move it away."
        )
    return run, contents


def run_named(experiment: Experiment, identifier: Identity, place: Place) -> Run:
    """The run of an experiment and an identity, which may not be there yet."""
    name = f"{experiment.model}-{experiment.recipe}-s{experiment.seed}-{identifier['digest'][:8]}"
    return Run(place.runs / name)


@contextmanager
def record_failure(run: Run) -> Iterator[Callable[[], None]]:
    """Note in a run's folder why its training fails; leave no folder of a run that never began.

    Yields what is to be called when the rehearsal has passed, in all workers.
    """
    begun = not (run.folder / UNTRIED).exists()
    with write_errors(run.folder / FAILURE):
        (run.folder / FAILURE).unlink(missing_ok=True)

    def passed() -> None:
        nonlocal begun
        begun = True
        with write_errors(run.folder / UNTRIED):
            (run.folder / UNTRIED).unlink(missing_ok=True)

    try:
        yield passed
    except (Interrupted, WorkerLost, NotOwner):
        raise
    except BaseException as error:
        if not begun:
            part = run.folder.with_name(f".{run.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            with contextlib.suppress(OSError):
                run.folder.rename(part)
            shutil.rmtree(part, ignore_errors=True)
        elif isinstance(error, Exception):
            _note(run, error)
        raise


@contextmanager
def record_failure_of_worker(run: Run) -> Iterator[None]:
    """Note, as ``record_failure`` does, what ends a worker that is not the first.

    The first worker, which keeps the run's files, only learns that this one is gone.
    """
    try:
        yield
    except (Interrupted, WorkerLost):
        raise
    except Exception as error:
        if run.folder.exists() and not (run.folder / UNTRIED).exists():
            _note(run, error)
        raise


def _note(run: Run, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    with contextlib.suppress(WriteError):  # of a full disk
        write_atomically(run.folder / FAILURE, readable_json({"reason": reason}))


def others(experiment: Experiment, parts: Parts, folder: Path) -> list[str]:
    """A line for each run of the same recipe and seed: its state, and what parts it from this."""
    begin = f"{experiment.model}-{experiment.recipe}-s{experiment.seed}-"
    lines = []
    for run in runs(folder):
        if not run.name.startswith(begin):
            continue
        try:
            lines.append(f"new run: {run.name} ({run.state}) has {summary(run.parts, parts)}")
        except RunError:
            continue  # altered, or of another kind: `invoke runs` says so
    return lines


def _yaml(content: dict[str, Any]) -> bytes:
    return yaml_text.dump(content).encode()


def write(folder: Path, contents: dict[str, bytes]) -> None:
    """Write a run's first files, or those of them that were altered since."""
    for name, content in contents.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != content:
            write_atomically(folder / name, content)
