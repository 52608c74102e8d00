"""Parity: the same training on the host, in the images and in the dev container."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lockstep.ground.errors import ContainerError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.workspace import containers


@dataclass(frozen=True)
class Trial:
    """One training in one place: its receipt, why it was not tried, or how it failed."""

    place: str
    receipt: dict[str, Any] | None = None
    lacking: str = ""
    failure: str = ""

    @property
    def weights(self) -> str:
        """Digest of the trained weights."""
        return str(self.receipt["results"]["weights_sha256"]) if self.receipt else ""

    @property
    def trace(self) -> str:
        """Digest of the fingerprints of all steps."""
        return str(self.receipt["results"]["trace_sha256"]) if self.receipt else ""

    @property
    def facts(self) -> dict[str, Any]:
        """What the receipt says of the environment."""
        return dict(self.receipt["environment"]) if self.receipt else {}

    def row(self) -> list[str]:
        """A line of the table that people read."""
        if not self.receipt:
            why = f"failed: {self.failure}" if self.failure else f"not tried: {self.lacking}"
            return [self.place, why, "", "", ""]
        packages = f"{len(self.facts['packages'])} as locked"
        if self.facts["drift"]:
            packages = "; ".join(self.facts["drift"])
        cpu = " ".join(self.facts["cpu"]["features"])
        return [self.place, self.weights[:16], packages, self.facts["python"], cpu]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "place": self.place,
            "lacking": self.lacking or None,
            "failure": self.failure or None,
            "weights_sha256": self.weights or None,
            "trace_sha256": self.trace or None,
        } | {key: self.facts.get(key) for key in ("python", "packages", "drift", "cpu", "image")}


HEAD = ["place", "weights sha256", "packages", "Python", "CPU"]


def parity(recipe: str, data: Path, watch: Watch, *, gpu: bool = False) -> list[Trial]:
    """Train a recipe with seed 42 everywhere, on the CPU; the runs are removed afterwards.

    ``gpu`` adds the GPU image, which is large.
    """
    words = ["train", recipe, "--seed", "42", "training.device=cpu"]
    trials = []
    for name in ("host", "image cpu", *(["image gpu"] if gpu else []), "dev container"):
        watch.say(f"parity: {recipe}, {name}")
        if lacking := _lacking(name):
            trials.append(Trial(name, lacking=lacking))
            continue
        with tempfile.TemporaryDirectory(prefix="lockstep-parity-") as folder:
            place = Place(Path(folder) / "runs", data.absolute())
            try:
                if name == "host":
                    receipt = _on_host(words, place)
                elif name == "dev container":
                    receipt = _in_dev_container(words, watch)
                else:
                    receipt = _in_image(name.removeprefix("image "), words, place, watch)
            except ContainerError as error:
                trials.append(Trial(name, failure=str(error)))
            else:
                trials.append(Trial(name, receipt))
    return trials


def _lacking(name: str) -> str:
    """What this machine lacks to train in a place, or an empty string."""
    try:
        if name != "host":
            containers.refuse_without_engine()
    except ContainerError as error:
        return str(error)
    if name == "dev container" and not shutil.which("devcontainer"):
        return "devcontainer: not found; npm install -g @devcontainers/cli"
    return ""


def differences(trials: Sequence[Trial]) -> list[str]:
    """Describe what differs between places or from the lock, a line each."""
    found = [f"{trial.place}: {trial.failure}" for trial in trials if trial.failure]
    done = [trial for trial in trials if trial.receipt]
    found += [f"{trial.place}: {line}" for trial in done for line in trial.facts["drift"]]
    for first, other in pairwise(done):
        for name in sorted(first.facts["packages"].keys() & other.facts["packages"].keys()):
            one, two = first.facts["packages"][name], other.facts["packages"][name]
            if one.partition("+")[0] != two.partition("+")[0]:
                found.append(f"{name}: {one} ({first.place}), {two} ({other.place})")
        for what, one, two in (
            ("trace", first.trace, other.trace),
            ("weights", first.weights, other.weights),
        ):
            if one != two:
                found.append(f"{what}: {one[:16]} ({first.place}), {two[:16]} ({other.place})")
    return found


def _on_host(words: Sequence[str], place: Place) -> dict[str, Any]:
    command = [sys.executable, "-m", "lockstep", *words, "--runs", str(place.runs)]
    variables = {"LOCKSTEP_DATA": str(place.data), "LOCKSTEP_TRACK": "off"}
    variables |= {"PYTHONPATH": str(containers.ROOT)}
    code = subprocess.run(command, env=os.environ | variables, stdout=subprocess.DEVNULL).returncode
    return _receipt(place, code)


def _in_image(torch: str, words: Sequence[str], place: Place, watch: Watch) -> dict[str, Any]:
    words = [*words, "--runs", str(place.runs)]
    return _receipt(place, containers.run(torch, words, place, watch, stdout=subprocess.DEVNULL))


def _receipt(place: Place, code: int) -> dict[str, Any]:
    found = list(place.runs.glob("*/receipt.json"))
    if code or len(found) != 1:
        raise ContainerError(f"training ended with exit code {code}, see above")
    return dict(json.loads(found[0].read_bytes()))


def _in_dev_container(words: Sequence[str], watch: Watch) -> dict[str, Any]:
    """Train in a temporary dev container, which leaves the user's own as it is."""
    label = f"lockstep.parity={containers.ROOT}"
    where = [
        "--workspace-folder",
        str(containers.ROOT),
        "--docker-path",
        str(shutil.which("docker")),
    ]
    where += ["--id-label", label]
    containers.remove_containers(label)  # left by a killed parity
    variables = os.environ | {"DOCKER_BUILDKIT": "1"}
    watch.doing("starting the dev container")
    try:
        up = ["devcontainer", "up", *where]
        done = subprocess.run(up, env=variables, capture_output=True, text=True)
        watch.end()
        if done.returncode:
            raise ContainerError(
                f"devcontainer up: {containers.last_line(done.stdout or done.stderr)}"
            )
        # Runs and data of its own: the workspace may belong to another user than the container's.
        command = ["devcontainer", "exec", *where, "--remote-env", "LOCKSTEP_DATA=/tmp/parity/data"]
        command += ["--remote-env", "LOCKSTEP_TRACK=off"]
        command += ["python", "-m", "lockstep", *words, "--runs", "/tmp/parity/runs", "--json"]
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise ContainerError(f"training ended with exit code {done.returncode}, see above")
        return dict(json.loads(done.stdout))
    finally:
        containers.remove_containers(label)
