"""What goes wrong with images by a user's doing: one line, exit code 2, what to do next."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep.tests.conftest import ROOT
from lockstep.tests.containers.conftest import docker, project

TRAIN = ("train", "digits/base", "--in", "cpu")


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command refused."""
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    return line


def test_no_docker(tmp_path: Path) -> None:
    assert refused(project(ROOT, *TRAIN, PATH=str(tmp_path))) == (
        "error: docker: not found on PATH, needed for the images; install Docker 20.10 or "
        "later, or train without --in."
    )


def test_an_engine_that_does_not_run(engine: None, tmp_path: Path) -> None:
    told = refused(project(ROOT, *TRAIN, DOCKER_HOST=f"unix://{tmp_path}/no.sock"))
    assert told.startswith(f"error: docker: no engine answers at unix://{tmp_path}/no.sock; start")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to be somebody else")
def test_a_socket_of_others(engine: None) -> None:
    code = (
        "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "from lockstep.workspace.containers import refuse_without_engine;"
        "from lockstep.ground.errors import ContainerError\n"
        "try: refuse_without_engine()\n"
        "except ContainerError as error: print(error)"
    )
    # Its own interpreter lies where another user cannot read: it is changed after the start.
    import sys

    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    preload = "import lockstep.workspace.containers, lockstep.ground.errors; "
    done = subprocess.run(
        [sys.executable, "-c", preload + code], env=variables, capture_output=True, text=True
    )
    assert "group docker (sudo usermod -aG docker $USER)" in done.stdout, done.stderr


def test_a_gpu_where_there_is_none(cpu_image: str) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU here")
    told = refused(project(ROOT, *TRAIN, "training.device=cuda"))
    assert told.startswith("error: GPU: the engine gives containers none (")
    assert told.endswith("install the driver and the NVIDIA container toolkit, or use --in cpu.")


def test_a_lock_of_another_pipfile(cpu_image: str, clone: Path) -> None:
    pipfile = clone / "Pipfile"
    before = pipfile.read_text()
    pipfile.write_text(before.replace("[packages]", '[packages]\nattrs = "*"'))
    told = refused(project(clone, "image", "build"))
    pipfile.write_text(before)
    assert re.search(r"Pipfile\.lock: made from another Pipfile .* `invoke lock`", told)


def test_a_base_image_of_another_digest(engine: None, registry: str) -> None:
    name = f"{registry}/base"
    docker("tag", os.environ.get("LOCKSTEP_BASE_IMAGE", "lockstep:train-cpu"), f"{name}:1")
    docker("push", f"{name}:1")
    docker("rmi", f"{name}:1")
    base = f"{name}:1@sha256:{'0' * 64}"
    told = refused(project(ROOT, "image", "build", LOCKSTEP_BASE_IMAGE=base))
    assert told.startswith("error: image: the base image that docker/Dockerfile names is")
    assert "`invoke lock --base` for a newer digest" in told


def test_lock_base_pins_the_digest_of_today(engine: None, registry: str, clone: Path) -> None:
    name = f"{registry}/base"
    docker("tag", os.environ.get("LOCKSTEP_BASE_IMAGE", "lockstep:train-cpu"), f"{name}:2")
    pushed = re.search(r"digest: (sha256:\w{64})", docker("push", f"{name}:2").stdout)
    dockerfile = clone / "docker" / "Dockerfile"
    before = dockerfile.read_text()
    pinned = re.compile(r"python:3\.11-slim-bookworm@(sha256:\w{64})")
    dockerfile.write_text(pinned.sub(rf"{name}:2@\1", before))
    done = project(clone, "image", "base", "--json")
    after = dockerfile.read_text()
    dockerfile.write_text(before)
    docker("rmi", f"{name}:2")
    assert done.returncode == 0, done.stderr
    old = pinned.search(before)
    assert pushed and old
    assert json.loads(done.stdout) == {"before": old[1], "after": pushed[1]}
    assert after == pinned.sub(f"{name}:2@{pushed[1]}", before)


def test_a_port_that_is_taken(engine: None, wheelhouse: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told = refused(project(ROOT, "image", "lab", "--port", port))
    assert told == f"error: port {port}: already in use, expected a free one; try --port N."


@pytest.fixture
def small_engine(engine: None) -> Iterator[str]:
    """The address of an engine of its own, which has 600 MB of disk and the base image."""
    base = os.environ.get("LOCKSTEP_BASE_IMAGE")
    if not base or os.geteuid() or not shutil.which("dockerd"):
        pytest.skip("takes the engine that tests/containers/engine.py starts")
    # A socket's path has 107 characters at most, and pytest's folders may have most of them.
    place = Path(tempfile.mkdtemp(prefix="lockstep-"))
    disk, home = place / "disk.img", place / "home"
    home.mkdir()
    subprocess.run(["truncate", "--size", "600M", disk], check=True)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, home], check=True)
    address = f"unix://{place}/small.sock"
    # In a network of its own, for it would take the bridge of the other away.
    command = ["unshare", "--net", "--mount", "dockerd", f"--data-root={home}/data"]
    command += [f"--exec-root={place}/run", f"--host={address}", f"--pidfile={place}/pid"]
    command += ["--bridge=none", "--iptables=false", "--storage-driver=overlay2"]
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        variables = os.environ | {"DOCKER_HOST": address}
        for _ in range(600):
            asked = subprocess.run(["docker", "info"], env=variables, capture_output=True)
            if asked.returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"no engine at {address}: {(place / 'log').read_text()[-2000:]}")
        with subprocess.Popen(["docker", "save", base], stdout=subprocess.PIPE) as saved:
            subprocess.run(["docker", "load", "-q"], env=variables, stdin=saved.stdout, check=True)
        yield address
    finally:
        server.terminate()
        server.wait()
        subprocess.run(["umount", "--lazy", home], check=True)
        shutil.rmtree(place, ignore_errors=True)


def test_a_disk_that_fills_during_the_build(small_engine: str, wheelhouse: Path) -> None:
    told = refused(project(ROOT, "image", "build", "--offline", DOCKER_HOST=small_engine))
    assert told.startswith("error: image: the engine's disk is full (")
    assert "docker system prune" in told
