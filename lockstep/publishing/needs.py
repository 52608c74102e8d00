"""What a bundle needs where it answers: its code, its packages, and what they are licensed as."""

import ast
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lockstep.ground import environment, wheels
from lockstep.ground.digests import readable_json
from lockstep.ground.environment import Locked
from lockstep.ground.errors import BundleError, EnvironmentMismatch
from lockstep.records import source
from lockstep.records.checkout import package_of
from lockstep.records.run import Run

# The first two check signatures, which is done before a bundle reaches a container, which has no
# key; the last comes with the container.
_NOT_THERE = {"cryptography", "model_signing", "sagemaker_inference"}
_INFERENCE = "inference.py"
_ANSWERS = "lockstep.answers.predictor"  # which the contract page names, but does not import
# How an identity marks a package whose files were its wheel's.
_WHOLE = ("", f"{wheels.DRIFTED}, ")
_CONTAINERS = "torch"  # comes with the container, with all that it needs itself


@dataclass(frozen=True)
class Package:
    """A package: version, digests of its files as locked, licence as its makers name it."""

    name: str
    version: str
    hashes: list[str]
    licence: str


def code(run: Run, model: str, inference: bytes) -> dict[str, bytes]:
    """Return ``inference.py`` and the files of the run's own source that it and the model need.

    They are path to content. Raises BundleError for a run of the first edition.
    """
    files = source.unpacked(run.folder / "source.zip")
    if "lockstep/model.py" not in files:
        raise BundleError(
            f"{run.folder}: trained by the first edition, whose code this one cannot bundle; train "
            "it again with `invoke train`, or make the bundle in the clone that trained it."
        )
    package = package_of(run)
    files[_INFERENCE] = inference
    roots = (_INFERENCE.removesuffix(".py"), _ANSWERS, f"{package}.models.{model}")
    found = source.closure(source.among(files), package, *roots)
    folder = f"{package.replace('.', '/')}/models/{model}/"
    return found | {name: content for name, content in files.items() if name.startswith(folder)}


def packages(run: Run, files: Mapping[str, bytes]) -> list[Package]:
    """Return the packages that the files import, and theirs, as locked when the run was trained.

    Raises EnvironmentMismatch if this environment or this lock has another version of one.
    """
    owners = metadata.packages_distributions()
    names = {
        environment.normal(owners[module][0]) for module in _modules(files) if module in owners
    }
    queue, needed = sorted(names | {_CONTAINERS}), {}
    category = environment.torch_category(environment.installed())
    # An engine that was installed by pip has no lock; then the versions count alone.
    locked = environment.locked_packages("default", category) if environment.LOCK.exists() else {}
    while queue:
        name = queue.pop()
        if name not in needed:
            needed[name] = _package(run, name, locked)
            queue += [] if name == _CONTAINERS else _requirements(name)
    return [needed[name] for name in sorted(needed)]


def _modules(files: Mapping[str, bytes]) -> set[str]:
    """The modules of other packages that the files import."""
    names = set()
    projects = {name.partition("/")[0] for name in files}
    for name, content in files.items():
        for node in ast.walk(ast.parse(content) if name.endswith(".py") else ast.Module([], [])):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - _NOT_THERE - {"lockstep", *projects}


def _requirements(name: str) -> list[str]:
    from packaging.requirements import Requirement

    required = [Requirement(text) for text in metadata.requires(name) or ()]
    return [
        environment.normal(one.name)
        for one in required
        if not one.marker or one.marker.evaluate({"extra": ""})
    ]


def _package(run: Run, name: str, locked: Mapping[str, Locked]) -> Package:
    unloaded = run.finished_receipt()["environment"]["packages"].get(name, "none")
    version, file = run.parts["packages"].get(name) or (unloaded, "")
    here = environment.installed().get(name, "none")
    if not locked and version == here != "none":
        return Package(name, here, [], _licence(name))
    entry = locked.get(name, {"version": "none", "hashes": []})
    # A digest alone is of the lock's hashes, as before schema 3, and says nothing of the file.
    known = not file or re.fullmatch("[0-9a-f]{64}", file)
    wheel = wheels.digests([name]).get(name)
    same_file = known or file in (f"{state}{wheels.WHEEL} {wheel}" for state in _WHOLE)
    if not (version == here == entry["version"] and same_file):
        other = "" if same_file else " (another file of that version)"
        raise EnvironmentMismatch(
            f"{name}: the run was trained with {version}{other}, locked is {entry['version']}, "
            f"installed is {here}; make the bundle in the environment that trained the run."
        )
    return Package(name, here, entry["hashes"], _licence(name))


def _licence(name: str) -> str:
    about: Any = metadata.metadata(name)
    kinds = [kind for kind in about.get_all("Classifier", ()) if kind.startswith("License ::")]
    named = about.get("License-Expression") or "; ".join(k.rpartition(" :: ")[2] for k in kinds)
    first = (about.get("License") or "").strip().splitlines()[:1]
    return named or (first[0][:80] if first else "not named in its metadata")


def requirements(needed: list[Package]) -> bytes:
    """Return ``requirements.txt``, with every digest of the lock, without the container's torch."""
    locked = any(one.hashes for one in needed)
    origin = "From Pipfile.lock" if locked else "No Pipfile.lock was at hand, so without hashes"
    lines = [f"# {origin}. torch comes with the container; the run was trained with"]
    lines += [f"# {_CONTAINERS} {one.version}." for one in needed if one.name == _CONTAINERS]
    for one in needed:
        if one.name != _CONTAINERS:
            hashes = [f"    --hash={digest}" for digest in one.hashes]
            lines.append(" \\\n".join([f"{one.name}=={one.version}", *hashes]))
    return ("\n".join(lines) + "\n").encode()


def sbom(needed: list[Package]) -> bytes:
    """Return the packages as CycloneDX (JSON), by the part of the lock that has them.

    Raises BundleError if cyclonedx-py, which writes it, is not installed.
    """
    parts: dict[str, dict[str, Any]] = {"default": {}, "cpu": {}}
    for one in needed:
        part = parts["cpu" if one.name == _CONTAINERS else "default"]
        part[one.name] = {"version": f"=={one.version}", "hashes": one.hashes}
    lock = {"_meta": {"pipfile-spec": 6, "requires": {}, "sources": []}, **parts}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Pipfile").write_text("")
        (Path(folder) / "Pipfile.lock").write_bytes(readable_json(lock))
        return cyclonedx(Path(folder), "packages,cpu")


def cyclonedx(folder: Path, categories: str) -> bytes:
    """Return a lock's categories as CycloneDX (JSON), the same bytes for the same lock."""
    words = [sys.executable, "-m", "cyclonedx_py", "pipenv", str(folder)]
    words += ["--categories", categories, "--output-reproducible"]
    try:
        done = subprocess.run(words, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", b"") or str(error).encode()
        reason = " ".join(output.decode(errors="replace").split())[-200:]
        raise BundleError(
            f"sbom: cyclonedx-py failed ({reason}); ./workbench installs the locked packages."
        ) from error
    return readable_json(json.loads(done.stdout))


def licences(needed: list[Package], data: Mapping[str, str], codes: Mapping[str, str]) -> bytes:
    """Return ``LICENCES.md``: those of the packages, of the data, and of each code by its name."""
    rows = [f"| {one.name} | {one.version} | {one.licence} |" for one in needed]
    text = ["# Licences", "", "What the code of this bundle needs, as its makers name it:", ""]
    text += ["| package | version | licence |", "|---|---|---|", *rows, ""]
    text += [f"Trained on {data['name']}: {data['licence']}", ""]
    for whose, licence in codes.items():
        text += [f"## {whose}", "", licence]
    return ("\n".join(text).rstrip() + "\n").encode()
