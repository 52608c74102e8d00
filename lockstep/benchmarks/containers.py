"""Measures containers: dev container to a usable shell, builds, training in the image."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from lockstep.benchmarks.measure import ROOT, Table

TRAIN = ("train", "digits/base", "--seed", "42")
QUIET = {"stdin": subprocess.DEVNULL, "capture_output": True}


def containers(rounds: int) -> Table:
    """Measure each case and its reference in turn; return medians and the median ratio."""
    for stage in ("develop", "train"):
        _project("image", "build", "--stage", stage)
    rows, measured = [], {}
    for name, ours, beside_name, beside in _pairs():
        times = [(_seconds(ours), _seconds(beside)) for _ in range(rounds)]
        ratio = statistics.median(one / other for one, other in times)
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        rows.append(
            [name, f"{medians[0]:.1f} s", f"{beside_name}: {medians[1]:.1f} s", f"{ratio:.2f}"]
        )
        measured[name] = times
    return Table("containers", ["what", "median", "beside it", "ratio"], rows, measured)


def _pairs() -> list[tuple[str, Callable[[], object], str, Callable[[], object]]]:
    return [
        (
            "dev container, first `up` and a command in it",
            _dev_container,
            "`docker run` of its image",
            lambda: _docker("run", "--rm", "lockstep:develop-cpu", "true"),
        ),
        (
            "`image build`, one line of the code changed",
            _build_after_an_edit,
            "nothing changed",
            lambda: _project("image", "build"),
        ),
        ("`train --in cpu`, digits", lambda: _train("--in", "cpu"), "on the host", _train),
    ]


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _project(*words: str) -> None:
    command = [sys.executable, "-m", "lockstep", *words]
    subprocess.run(command, cwd=ROOT, check=True, **QUIET)  # type: ignore[call-overload]


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def _dev_container() -> None:
    """Start a new container with new volumes and run one command in it."""
    label = f"lockstep.benchmark={uuid.uuid4().hex}"
    where = ["--workspace-folder", str(ROOT), "--docker-path", str(shutil.which("docker"))]
    where += ["--id-label", label]
    variables = os.environ | {"DOCKER_BUILDKIT": "1"}
    for verb, *words in (["up"], ["exec", "invoke", "--version"]):
        command = ["devcontainer", verb, *where, *words]
        subprocess.run(command, check=True, env=variables, **QUIET)  # type: ignore[call-overload]
    _docker("rm", "--force", *_docker("ps", "--quiet", "--filter", f"label={label}").split())


def _build_after_an_edit() -> None:
    source = ROOT / "lockstep" / "run" / "making.py"
    before = source.read_bytes()
    try:
        source.write_bytes(before + f"# {uuid.uuid4().hex}\n".encode())
        _project("image", "build")
    finally:
        source.write_bytes(before)


def _train(*words: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _project(*TRAIN, "--runs", str(Path(folder) / "runs"), *words)
