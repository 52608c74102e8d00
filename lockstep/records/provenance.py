"""Whose code a reproduction runs: what the identity covers is the run's, the rest is this tree's.

The archive of a run also holds files that are in no identity: the command line, reports, storage.
Who forges a run could have them print anything, so none of them runs unless it is known.
"""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

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
    run's commit has the same files, or with ``trust``. So is code of the project that neither this
    tree nor the commit has. Raises RunError that names the files otherwise.
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
    if not trust:
        refuse_unknown(run.name, unknown(run))
    if _same_engine(covered):
        return catalogs | {n: c for n, c in ours.items() if n.startswith(_ENGINE)} | covered
    commit = run.finished_receipt()["environment"]["git"]["commit"]
    odd = [n for n in rest if n not in catalogs and ours.get(n) != rest[n]]
    odd = [n for n in odd if _committed(environment.ROOT, commit, n) != rest[n]]
    if odd and not trust:
        raise RunError(
            f"{run.name}: made by another engine, whose command line would run here, and "
            f"{len(odd)} of its files are in no identity and not known in this checkout "
            f"({', '.join(odd[:3])}); fetch commit {(commit or 'of the run')[:12]}, or add "
            "--trust-code if you trust who made the run."
        )
    return files


def unknown(run: Run, *, engine: bool = False) -> list[str]:
    """Return the files of a run's code that are not known in this checkout.

    They are those of its identity but the engine's, or with ``engine`` all files of its archive.
    They are as they are neither in this tree nor in the commit that the receipt names.
    """
    files, counted = source.unpacked(run.folder / "source.zip"), run.parts["source"]
    own = {name: files[name] for name in counted if name in files and not _is_engine(name)}
    own = files if engine else own
    commit = run.finished_receipt()["environment"]["git"]["commit"]
    ours = home.here()
    base = ours.folder.parents[ours.package.count(".")]
    return not_known(own, (environment.ROOT, base), commit)


def not_known(files: Mapping[str, bytes], folders: Iterable[Path], commit: str | None) -> list[str]:
    """Return the names of files that do something else in each of the folders and in the commit."""
    places = list(dict.fromkeys(folders))
    return [
        name
        for name, content in sorted(files.items())
        if not any(
            _does_the_same(name, content, other)
            for place in places
            for other in (_content(place / name), _committed(place, commit, name))
        )
    ]


def refuse_unknown(run: str, names: Sequence[str]) -> None:
    """Raise RunError that names files of a run that nobody here has seen, if there are any."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise RunError(
            f"{run}: its code would run here, and {', '.join(names[:3])}{more} is not known in "
            f"this checkout; read it (`invoke checkout {run} DIR`), and add --trust-code if you "
            "trust who made the run."
        )


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _does_the_same(name: str, content: bytes, other: bytes | None) -> bool:
    if content == other or other is None or not name.endswith(".py"):
        return content == other
    try:
        return source.essence(content, messages=True) == source.essence(other, messages=True)
    except RunError:  # one of them is no Python
        return False


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


def _committed(folder: Path, commit: str | None, name: str) -> bytes | None:
    """A file as a commit has it, if the checkout in a folder knows the commit."""
    command = ["git", "-C", str(folder), "cat-file", "blob", f"{commit}:{name}"]
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError:  # no git here
        return None
    return done.stdout if commit and done.returncode == 0 else None
