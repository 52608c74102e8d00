"""The bundle of a run: ``model.tar.gz``, as SageMaker's PyTorch containers expect it."""

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
_LICENCES = (("The team's code", home.ROOT), ("The engine, Lockstep", home.ENGINE))


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory: the facts in its manifest, and the archive's bytes.

    ``facts`` has ``model``, ``published_name``, ``version``, ``run``, ``identity`` and more.
    """

    facts: dict[str, Any]
    manifest_sha256: str
    content: bytes
    signed: bool

    @property
    def sha256(self) -> str:
        """The digest of the archive."""
        return digest_of(self.content)

    def write(self, path: Path) -> None:
        """Write the archive, as a whole or not at all. Raises WriteError if that is refused."""
        write_atomically(path, self.content)


Exported = tuple[bytes, dict[str, Any]]


def made(run: Run, key: Path | None = None, onnx: Callable[[], Exported] | None = None) -> Bundle:
    """Make the bundle of a finished, unaltered run.

    The same run is the same bytes as long as [project] version is the same. The bundle is signed
    with ``key``, or the key that LOCKSTEP_SIGNING_KEY names; then all but ``signature.json`` is the
    same. ``onnx`` returns the model in that form, and facts for the manifest. Raises RunError or
    BundleError for a run that is not finished or was altered, EnvironmentMismatch if its packages
    are not those of this environment.
    """
    if run.receipt is None:
        raise BundleError(f"{run.folder}: {run.state}, expected a finished run.")
    if problems := verify(run):
        raise BundleError(f"{run.folder}: altered: {problems[0]}; restore it from a copy.")
    facts = _facts(run)
    files = _files(run, facts)
    if onnx:
        files["model.onnx"], facts["onnx"] = onnx()
    key = key or (Path(os.environ[SIGNING_KEY]) if os.environ.get(SIGNING_KEY) else None)
    files[manifest.NAME] = content = manifest.make(files, facts)
    if key:
        files[manifest.SIGNATURE] = _signature(files, key)
    return Bundle(facts, digest_of(content), archive.packed(files), bool(key))


def _facts(run: Run) -> dict[str, Any]:
    experiment, receipt = run.experiment(), run.finished_receipt()
    team = home.or_here(package_of(run))
    return {
        "model": experiment["name"],
        "package": package_of(run),
        "published_name": team.published_name(experiment["name"]),
        "version": f"{team.version}+{receipt['identity']['digest'][:8]}",
        "run": receipt["run"],  # not the folder's name: a copy may have any
        "identity": receipt["identity"]["digest"],
        "profile": experiment["training"]["profile"],
        "torch": receipt["environment"]["torch"],
        "test": receipt["results"]["metrics"]["test"],
    }


def _files(run: Run, facts: dict[str, Any]) -> dict[str, bytes]:
    code = needs.code(run, facts["model"], _INFERENCE.read_bytes())
    needed = needs.packages(run, code)
    files = {name: (run.folder / name).read_bytes() for name in _OWN}
    files |= {f"code/{name}": content for name, content in code.items()}
    files["code/requirements.txt"] = needs.requirements(needed)
    files["sbom.json"] = needs.sbom(needed)
    files["LICENCES.md"] = needs.licences(needed, _data(run), _licences())
    return files


def _licences() -> dict[str, str]:
    """Return the licences of the code in a bundle, by whose it is."""
    files = {whose: folder / "LICENSE" for whose, folder in _LICENCES}
    return {
        whose: path.read_text() if path.exists() else "see its repository\n"
        for whose, path in files.items()
    }


def _data(run: Run) -> dict[str, str]:
    """Return name and licence of the data that a run was trained on, from its own source."""
    name = str(run.experiment()["data"]["name"])
    files, file = source.unpacked(run.folder / "source.zip"), f"{name.partition('@')[0]}.yaml"
    folders = (f"{package_of(run).replace('.', '/')}/data", "project/data/catalog")
    catalog = next((files[f"{f}/{file}"] for f in folders if f"{f}/{file}" in files), b"{}")
    licence = (yaml.safe_load(catalog) or {}).get("licence", "its catalog names no licence")
    return {"name": name, "licence": licence}


def _signature(files: dict[str, bytes], key: Path) -> bytes:
    with tempfile.TemporaryDirectory(prefix="lockstep-bundle-") as temporary:
        folder = Path(temporary) / "model"  # a name that the signature contains
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        signature.sign(folder, key)
        return (folder / manifest.SIGNATURE).read_bytes()
