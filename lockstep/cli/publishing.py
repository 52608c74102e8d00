"""Verbs on what leaves the repository: bundles, keys, published weights, an audit of the parts."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.cli.verbs import Verbs, run_of
from lockstep.ground.console import show

if TYPE_CHECKING:
    from lockstep.ground.place import Place
    from lockstep.ground.watch import Watch
    from lockstep.publishing.bundle import Bundle, Exported
    from lockstep.publishing.weights import Entry
    from lockstep.records.run import Run


def add_to(verbs: Verbs) -> None:
    """Add bundle, keys, publish and audit."""
    verb = verbs.add(bundle, runs=True)
    text = "where to write it (default: model.tar.gz in the run's folder)"
    verb.add_argument("--output", metavar="FILE", type=Path, help=text)
    add_what(verb)
    verb = verbs.add(publish, runs=True)
    text = "a folder or s3://BUCKET/PREFIX (default: LOCKSTEP_WEIGHTS)"
    verb.add_argument("--to", dest="storage", metavar="STORAGE", help=text)
    add_what(verb)
    verb = verbs.add(keys)
    verb.add_argument("--output", metavar="FOLDER", type=Path, default=Path("keys"))
    verb = verbs.add(audit)
    verb.add_argument("--output", metavar="FOLDER", type=Path, default=Path("audit"))


def add_what(verb: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """The run of which a bundle is made, and how it is made."""
    verb.add_argument("run", metavar="RUN", nargs=nargs)
    text = "private key to sign with (default: LOCKSTEP_SIGNING_KEY; without one: unsigned)"
    verb.add_argument("--key", metavar="FILE", type=Path, help=text)
    verb.add_argument("--onnx", action="store_true", help="with model.onnx, checked")


def bundle(options: argparse.Namespace) -> None:
    """Write a finished run as model.tar.gz, which SageMaker's PyTorch containers can serve."""
    from lockstep.ground.place import Place

    run = run_of(options.run, Place.default(options.runs).runs)
    made = bundled(options, run)
    path = options.output or run.folder / "model.tar.gz"
    made.write(path)
    if options.json:
        told = {"path": str(path), "sha256": made.sha256, "signed": made.signed}
        show(json.dumps(told | {"manifest_sha256": made.manifest_sha256} | made.facts, indent=2))
        return
    show(f"bundle {path}\nversion {made.facts['version']}\nsha256 {made.sha256}\n{signed(made)}")


def publish(options: argparse.Namespace) -> None:
    """Put a finished run's weights into a storage, under a version that never changes."""
    import os

    from lockstep.ground import console
    from lockstep.ground.errors import StorageError
    from lockstep.ground.storage import open_storage
    from lockstep.publishing.weights import WEIGHTS, moving
    from lockstep.publishing.weights import publish as put

    address = options.storage or os.environ.get(WEIGHTS)
    if not address:
        raise StorageError(f"publish: no storage is named; give --to STORAGE, or set {WEIGHTS}.")
    storage = open_storage(address)
    storage.check()
    made = bundled(options)
    with moving(f"publishing to {storage}", len(made.content), console.watch()) as moved:
        entry, new = put(made, storage, moved)
    if options.json:
        show(json.dumps(vars(entry) | {"key": entry.key, "new": new}, indent=2))
        return
    state = "published" if new else "was published before"
    show(f"{entry.model} {entry.version} {state}\n{storage}/{entry.key}\n{signed(entry)}")


def keys(options: argparse.Namespace) -> None:
    """Make a pair of keys, to sign bundles and to check their signatures."""
    from lockstep.bundles.signature import make_keys

    private, public = make_keys(options.output)
    if options.json:
        show(json.dumps({"private": str(private), "public": str(public)}, indent=2))
        return
    show(f"private key {private} (keep it; LOCKSTEP_SIGNING_KEY={private} signs)")
    show(f"public key {public} (hand it out; LOCKSTEP_PUBLIC_KEY={public} checks)")


def audit(options: argparse.Namespace) -> int:
    """Check the lock for advisories and the files for secrets, list parts and licences; or exit 1.

    What could not be checked does not pass.
    """
    from lockstep.ground import console
    from lockstep.publishing.audit import audit as examine

    watch = console.watch()
    try:
        findings = examine(options.output, watch.doing)
    finally:
        watch.end()
    if options.json:
        show(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        rows = [["ok" if one.ok else "FIX", one.check, one.found] for one in findings]
        console.table(["", "check", "found"], rows)
    return 0 if all(finding.ok for finding in findings) else 1


def bundled(options: argparse.Namespace, run: "Run | None" = None) -> "Bundle":
    """The bundle that the options ask for, of their run if that is not known yet.

    Raises LockstepError if the run may not have one.
    """
    from lockstep.ground import console
    from lockstep.ground.place import Place
    from lockstep.publishing.acceptance import refuse_failing
    from lockstep.publishing.bundle import made

    place = Place.default(options.runs)
    run, watch = run or run_of(options.run, place.runs), console.watch()
    try:
        refuse_failing(run, place, watch)
        watch.doing(f"bundling {run.name}")
        return made(run, options.key, _exporting(run, place, watch) if options.onnx else None)
    finally:
        watch.end()


def _exporting(run: "Run", place: "Place", watch: "Watch") -> Callable[[], "Exported"]:
    """What exports a run's model as ONNX, tried on examples of its test split."""
    from lockstep import loading

    def exported() -> "Exported":
        predictor = loading.predictor(run)
        from lockstep.publishing import onnx  # loads torch, for which the profile now stands
        from lockstep.run.keeping import open_data

        watch.doing("exporting to ONNX, and comparing")
        data = open_data(run.experiment()["data"]["name"], place, watch)
        return onnx.exported(predictor, list(data.splits["test"].inputs[:64]))

    return exported


def signed(made: "Bundle | Entry") -> str:
    """A line that says whether a bundle, or what is published, is signed."""
    if made.signed:
        return "signed"
    return "unsigned: no key was given (`invoke keys` makes one; --key FILE signs)"
