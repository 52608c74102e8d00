"""Finds the weights that a run starts from, by name or by digest, and keeps them by digest."""

import dataclasses
from pathlib import Path

from lockstep.config.experiment import Experiment
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import RunError, SettingError
from lockstep.ground.files import held, write_atomically, write_errors
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.run import find_run

_SUFFIX = ".safetensors"


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
    content = _content(start.weights, place, watch)
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


def _content(name: str, place: Place, watch: Watch) -> bytes:
    path = Path(name)
    if path.suffix != _SUFFIX:
        try:
            run = find_run(name, place.runs, watch.say)
            path, expected = run.folder / f"weights{_SUFFIX}", run.finished_receipt()
        except RunError as error:
            raise SettingError(
                f"start.weights: {error} Expected a finished run, or a file that ends in {_SUFFIX}."
            ) from error
        content = path.read_bytes()
        if digest_of(content) != expected["results"]["weights_sha256"]:
            raise SettingError(f"start.weights: {path} was altered; put the file back.")
        return content
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingError(f"start.weights: {path}: {error.strerror}; correct the path.") from error
