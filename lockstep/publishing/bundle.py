"""Writes the bundle of a run: ``model.tar.gz``, as SageMaker's PyTorch containers expect it."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lockstep.bundles import archive, manifest, signature
from lockstep.ground import home
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import BundleError
from lockstep.ground.files import write_atomically
from lockstep.publishing import needs
from lockstep.records import source
from lockstep.records.checkout import package_of
from lockstep.records.run import Run
from lockstep.records.verify import verify

NAME = "model.tar.gz"
SIGNING_KEY = "LOCKSTEP_SIGNING_KEY"
_OWN = ("weights.safetensors", "preprocess.json", "receipt.json", "golden.json")  # files of a run
_INFERENCE = Path(__file__).with_name("inference.py")
_LICENCE = Path(__file__).parents[2] / "LICENSE"


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory: what its manifest says of it, its digest, the archive's bytes.

    ``facts`` has ``model``, ``version``, ``run``, ``identity`` and more.
    """

    facts: dict[str, Any]
    manifest_sha256: str
    content: bytes
    signed: bool

    @property
    def sha256(self) -> str:
        """Digest of the archive."""
        return digest_of(self.content)

    def write(self, path: Path) -> None:
        """Write the archive, as a whole or not at all. Raises RunError if that is refused."""
        write_atomically(path, self.content, "--output FILE")


Exported = tuple[bytes, dict[str, Any]]


def made(run: Run, key: Path | None = None, onnx: Callable[[], Exported] | None = None) -> Bundle:
    """The bundle of a finished, unaltered run; the same bytes for the same run.

    Signed if a key is given or LOCKSTEP_SIGNING_KEY names one; then all but ``signature.json`` is
    the same. ``onnx`` gives the model in that form and what is to be said of it. Raises RunError
    or BundleError for a run that is not finished or was altered, EnvironmentMismatch if its
    packages are not those of this environment.
    """
    if run.receipt is None:
        raise BundleError(f"{run.folder}: is {run.state}; wanted a finished run.")
    if problems := verify(run):
        raise BundleError(f"{run.folder}: was altered: {problems[0]}; put it back as it was.")
    facts = _facts(run)
    files = _files(run, facts)
    if onnx:
        files["model.onnx"], facts["onnx"] = onnx()
    key = key or (Path(os.environ[SIGNING_KEY]) if os.environ.get(SIGNING_KEY) else None)
    files[manifest.NAME] = said = manifest.written(files, facts)
    if key:
        files[manifest.SIGNATURE] = _signature(files, key)
    return Bundle(facts, digest_of(said), archive.packed(files), bool(key))


def _facts(run: Run) -> dict[str, Any]:
    experiment, receipt = run.experiment(), run.finished_receipt()
    return {
        "model": experiment["name"],
        "package": package_of(run),
        "published_name": home.of(package_of(run)).published_name(experiment["name"]),
        "version": version(run),
        "run": receipt["run"],  # not the folder's name: a copy may have any
        "identity": receipt["identity"]["digest"],
        "profile": experiment["training"]["profile"],
        "torch": receipt["environment"]["torch"],
        "test": receipt["results"]["metrics"]["test"],
    }


def version(run: Run) -> str:
    """The version of a run's weights, as ``0.1.0+3f9c1a2b``: its project's, then its identity."""
    return f"{home.here().version}+{run.identity['digest'][:8]}"


def _files(run: Run, facts: dict[str, Any]) -> dict[str, bytes]:
    code = needs.code(run, facts["model"], _INFERENCE.read_bytes())
    needed = needs.packages(run, code)
    files = {name: (run.folder / name).read_bytes() for name in _OWN}
    files |= {f"code/{name}": content for name, content in code.items()}
    files["code/requirements.txt"] = needs.requirements(needed)
    files["sbom.json"] = needs.sbom(needed)
    own = _LICENCE.read_text() if _LICENCE.exists() else "see its repository\n"
    files["LICENCES.md"] = needs.licences(needed, _data(run), own)
    return files


def _data(run: Run) -> dict[str, str]:
    """Name and licence of the data that a run was trained on, as its own source has them."""
    name = str(run.experiment()["data"]["name"])
    files, file = source.unpacked(run.folder / "source.zip"), f"{name.partition('@')[0]}.yaml"
    folders = (f"{package_of(run).replace('.', '/')}/data", "project/data/catalog")
    catalog = next((files[f"{f}/{file}"] for f in folders if f"{f}/{file}" in files), b"{}")
    licence = (yaml.safe_load(catalog) or {}).get("licence", "its catalog names no licence")
    return {"name": name, "licence": licence}


def _signature(files: dict[str, bytes], key: Path) -> bytes:
    with tempfile.TemporaryDirectory(prefix="lockstep-bundle-") as temporary:
        folder = Path(temporary) / "model"  # which the signature says
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        signature.sign(folder, key)
        return (folder / manifest.SIGNATURE).read_bytes()
