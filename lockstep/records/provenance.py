"""Whose code a reproduction runs: what the identity covers is the run's, the rest is this tree's.

The archive of a run also holds files that are in no identity: the command line, reports, storage.
Who forges a run could have them print anything, so none of them runs unless it is known.
"""

import subprocess
from collections.abc import Iterable, Mapping

from lockstep.ground import environment, home
from lockstep.ground.errors import RunError
from lockstep.records import source
from lockstep.records.checkout import package_of
from lockstep.records.run import Run
from lockstep.records.source import digests

_ENGINE = "lockstep/"


def code_of(run: Run, *, trust: bool = False) -> dict[str, bytes]:
    """Return path to content of the files by which a run is trained again.

    If its engine is this tree's, they are those of the identity, from the run's archive, and this
    tree's for the rest. A run of another engine needs its own command line: it is taken if the
    run's commit has the same files, or with ``trust``. Raises RunError that names the files
    otherwise.
    """
    files, counted = source.unpacked(run.folder / "source.zip"), run.parts["source"]
    covered = {name: content for name, content in files.items() if name in counted}
    rest = {name: content for name, content in files.items() if name not in counted}
    package = package_of(run)
    homes = (_ENGINE, f"{package.partition('.')[0]}/")
    if strange := [name for name in covered if not name.startswith(homes)]:
        raise RunError(
            f"{run.name}: source.zip: {strange[0]} is neither of the engine nor of {package}, and "
            "would run in place of another module; it was altered."
        )
    catalogs = {name: content for name, content in rest.items() if name.endswith(".yaml")}
    ours = source.of_verb(home.here()) | _in_tree(files)
    if _same_engine(covered):
        return catalogs | {n: c for n, c in ours.items() if n.startswith(_ENGINE)} | covered
    unknown = [n for n in rest if n not in catalogs and ours.get(n) != rest[n]]
    if not trust and (unknown := [n for n in unknown if _committed(run, n) != rest[n]]):
        commit = run.finished_receipt()["environment"]["git"]["commit"]
        raise RunError(
            f"{run.name}: made by another engine, whose command line would run here, and "
            f"{len(unknown)} of its files are in no identity and not known in this checkout "
            f"({', '.join(unknown[:3])}); fetch commit {(commit or 'of the run')[:12]}, or add "
            "--trust-code if you trust who made the run."
        )
    return files


def differing(run: Run) -> dict[str, str]:
    """Return the files of a run's archive that differ from this tree, each with whose code runs."""
    files, counted = source.unpacked(run.folder / "source.zip"), run.parts["source"]
    ours, same = _in_tree(files), _same_engine({n: files[n] for n in counted if n in files})
    return {
        name: (
            "the run's, as it is in the identity"
            if name in counted
            else "this tree's, as it is in no identity" if same else "the run's, in no identity"
        )
        for name, content in sorted(files.items())
        if ours.get(name) != content and not name.endswith(".yaml")
    }


def _in_tree(names: Iterable[str]) -> dict[str, bytes]:
    """The files of these names as they are in this tree."""
    found = ((name, environment.ROOT / name) for name in names)
    return {name: path.read_bytes() for name, path in found if path.is_file()}


def _same_engine(covered: Mapping[str, bytes]) -> bool:
    """Whether the engine's files of an identity do what those of this tree do."""
    engine = {name: content for name, content in covered.items() if _is_engine(name)}
    ours = _in_tree(engine)
    return bool(engine) and ours.keys() == engine.keys() and digests(ours) == digests(engine)


def _is_engine(name: str) -> bool:
    return name.startswith(_ENGINE) and not name.startswith(f"{_ENGINE}examples/")


def _committed(run: Run, name: str) -> bytes | None:
    """A file as the run's commit has it, if this checkout knows the commit."""
    commit = run.finished_receipt()["environment"]["git"]["commit"]
    command = ["git", "-C", str(environment.ROOT), "cat-file", "blob", f"{commit}:{name}"]
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError:  # no git here
        return None
    return done.stdout if commit and done.returncode == 0 else None
