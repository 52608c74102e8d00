"""Finds the weights that a run starts from, by name or by digest, and keeps them by digest."""

import dataclasses
import importlib
from pathlib import Path

from lockstep.config.experiment import Experiment
from lockstep.ground import home
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import BundleError, RunError, SettingError, StorageError
from lockstep.ground.files import held, write_atomically, write_errors
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.run import find_run

_SUFFIX = ".safetensors"
_WEIGHTS = f"weights{_SUFFIX}"


def begin(experiment: Experiment, place: Place, watch: Watch) -> tuple[Experiment, bytes]:
    """Return the experiment with the digest of the weights that it starts from, and these.

    They are kept with the data, so that a run needs their place once only. Raises SettingError if
    they are not found, or are others than ``start.sha256`` says.
    """
    start = experiment.start
    if not start.weights:
        if start.sha256:
            raise SettingError(
                "start.weights: not set, expected a run or a file; start.sha256 only pins them."
            )
        return experiment, b""
    folder = place.data / "weights"
    kept = folder / f"{start.sha256}{_SUFFIX}"
    if start.sha256 and kept.is_file() and digest_of(content := kept.read_bytes()) == start.sha256:
        return experiment, content
    content = _content(start.weights, experiment.model, place, watch)
    digest = digest_of(content)
    if start.sha256 not in ("", digest):
        raise SettingError(
            f"start.weights: {start.weights} has sha256 {digest[:12]}, start.sha256 expects "
            f"{start.sha256[:12]}; name the right ones, or correct the digest."
        )
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder, watch.say):  # other workers keep them as well
            write_atomically(folder / f"{digest}{_SUFFIX}", content)
    if not start.sha256:
        watch.say(f"starts from {start.weights}; to pin its weights: start.sha256={digest}")
    return dataclasses.replace(experiment, start=dataclasses.replace(start, sha256=digest)), content


def _content(name: str, model: str, place: Place, watch: Watch) -> bytes:
    """Return the weights of a name: a file's, of published weights, or of a run."""
    if name.endswith(_SUFFIX):
        inside = home.here().folder_of(model) / name
        path = inside if inside.is_file() else Path(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise SettingError(
                f"start.weights: {path}: {error.strerror}; correct the path, or put the file into "
                f"{inside.parent}."
            ) from error
    published, at, version = name.partition("@")
    return _published(published, version, place, watch) if at else _of_run(name, place, watch)


def _of_run(name: str, place: Place, watch: Watch) -> bytes:
    try:
        run = find_run(name, place.runs, watch.say)
        path, expected = run.folder / _WEIGHTS, run.finished_receipt()
    except RunError as error:
        raise SettingError(
            f"start.weights: {error} Expected a finished run, published weights (MODEL@VERSION), "
            f"or a file that ends in {_SUFFIX}."
        ) from error
    content = path.read_bytes()
    if digest_of(content) != expected["results"]["weights_sha256"]:
        raise SettingError(f"start.weights: {path} was altered; put the file back.")
    return content


def _published(name: str, version: str, place: Place, watch: Watch) -> bytes:
    """Return those of a version that was published by the model's name here, or by a full one."""
    here = home.here()
    full = here.published_name(name) if name in here.models() else name
    # By name: where weights come from decides no bit, so publishing is no part of making.
    weights = importlib.import_module("lockstep.publishing.weights")
    archive = importlib.import_module("lockstep.bundles.archive")
    try:
        bundle = weights.fetched(full, version, place.data, watch)
        content: bytes = archive.content_of(bundle, _WEIGHTS)
    except (StorageError, BundleError) as error:
        raise SettingError(f"start.weights: {error}") from error
    return content
