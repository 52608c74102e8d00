"""Verifying a run: which of its files are not as they were written."""

from collections.abc import Callable, Mapping
from typing import Any

from lockstep.ground import environment
from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.errors import RunError
from lockstep.records import source
from lockstep.records.identity import identity
from lockstep.records.reading import Altered, NewerSchema, json_object
from lockstep.records.receipt import DIGESTED
from lockstep.records.run import Run
from lockstep.records.script import Script

_SECTIONS = ("data", "model", "training", "start")


def verify(run: Run) -> list[str]:
    """Return what was altered in a run's files, a line each that begins with the file's name.

    A run without a receipt is checked as far as its identity goes. Raises NewerSchema for a run of
    a newer Lockstep, which cannot be verified here.
    """
    checks: list[Callable[[Run], list[str]]] = [
        _identity_problems,
        _experiment_problems,
        _source_problems,
        _receipt_problems,
    ]
    if run.script:
        checks = [lambda run: Script(run.folder).verify()]
    problems = []
    for check in checks:
        try:
            problems += check(run)
        except NewerSchema:
            raise
        except Altered as error:
            problems.append(error.problem)
        except RunError as error:
            problems.append(str(error))
        except ValueError as error:  # a number or text that no JSON of a run holds
            problems.append(f"holds a value that was never written ({error})")
    return list(dict.fromkeys(problems))  # a file that several checks read is named once


def refuse_altered(run: Run) -> None:
    """Raise RunError that names every file of a run that was altered."""
    if problems := verify(run):
        raise RunError(
            f"{run.folder}: was altered: {'; '.join(problems)}. Put the files back as they were, "
            "or train again."
        )


def refuse_changed(run: Run) -> None:
    """Raise RunError if what the run was made from, as its files say, is not what its name says."""
    try:
        problems = [*_identity_problems(run), *_experiment_problems(run)]
    except ValueError as error:  # a number or text that no JSON of a run holds
        problems = [f"parts.json: holds a value that was never written ({error})"]
    if problems:
        raise RunError(f"{run.folder}: altered: {problems[0]}; put back the file as it was.")


def _identity_problems(run: Run) -> list[str]:
    if problems := _rewritten(run, "identity.json", "parts.json"):
        return problems
    found, parts = run.identity, run.parts
    digests = {name: digest for name, digest in found.items() if name != "digest"}
    wanted = {name: digest for name, digest in identity(parts).items() if name != "digest"}
    names = [name for name in wanted.keys() | digests if wanted.get(name) != digests.get(name)]
    return [f"parts.json: {name} is not what identity.json names" for name in sorted(names)]


def _experiment_problems(run: Run) -> list[str]:
    """Each setting that decides bits must be as the identity has it; the others may be changed."""
    found: Mapping[str, Any] = run.experiment()
    wanted: Mapping[str, Any] = run.parts["experiment"]
    try:
        same = {
            name: {key: found[name][key] for key in value} if name in _SECTIONS else found[name]
            for name, value in wanted.items()
        }
        if canonical_json(same) != canonical_json(wanted):
            return ["experiment.yaml: its settings are not those of the identity"]
    except (TypeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        return [f"experiment.yaml: does not hold the settings of the identity ({reason})"]
    return []


def _source_problems(run: Run) -> list[str]:
    files, parts = source.unpacked(run.folder / "source.zip"), run.parts
    wanted = parts["source"]
    if parts.get("schema", 1) == 1:
        found = source.raw_digests(files)
    elif parts.get("python") == environment.language():
        found = source.digests({name: files[name] for name in wanted if name in files})
    else:  # what source does can be told by the same Python only; the receipt has the archive's sum
        return []
    return [
        f"source.zip: {name} is not the file that ran"
        for name, digest in wanted.items()
        if found.get(name) != digest
    ]


def _receipt_problems(run: Run) -> list[str]:
    content = run.receipt
    if content is None:
        return []
    if problems := _rewritten(run, "receipt.json"):
        return problems
    problems, results = [], dict(content["results"])
    for key, name in DIGESTED.items():
        path, wanted = run.folder / name, str(results[key])
        if wanted and not path.is_file():
            problems.append(f"{name}: is {'not a regular file' if path.exists() else 'missing'}")
        elif wanted and (found := digest_of(path)) != wanted:
            problems.append(f"{name}: sha256 {found[:12]}, the receipt names {wanted[:12]}")
    return problems


def _rewritten(run: Run, *names: str) -> list[str]:
    """The JSON files that are missing, or are not byte for byte as they were written."""
    problems = []
    for name in names:
        content = json_object(run.folder / name)
        if content is None:
            problems.append(f"{name}: is missing")
        elif readable_json(content) != (run.folder / name).read_bytes():
            problems.append(f"{name}: its bytes are not those that were written")
    return problems
