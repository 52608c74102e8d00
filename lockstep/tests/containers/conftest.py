"""What the container tests share: the engine, the wheels, the image of this tree, a registry."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep.tests.conftest import ROOT

IN_CI = "LOCKSTEP_CI" in os.environ
BRIEF = ("training.epochs=2", "data.limit=300", "training.checkpoint_every=3")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """None of them is quick. (That one process runs all of them is said in tests/conftest.py.)"""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine that answers."""
    asked = shutil.which("docker") and docker("version", check=False)
    if not asked or asked.returncode:
        assert not IN_CI, "CI starts an engine: eval $(python tests/containers/engine.py up)"
        pytest.skip("no Docker engine answers here; `invoke doctor` tells more")


@pytest.fixture(scope="session")
def wheelhouse(engine: None) -> Path:
    """The archive of all locked wheels, where the builds look for it."""
    project = [sys.executable, str(ROOT / "environment" / "wheelhouse.py")]
    done = subprocess.run(project, cwd=ROOT, check=True, capture_output=True, text=True)
    return ROOT / done.stdout.partition(":")[0]


@pytest.fixture(scope="session")
def cpu_image(wheelhouse: Path) -> str:
    """The train image of this tree, as `invoke image build` makes it."""
    return build(ROOT)


def build(tree: Path, *words: str) -> str:
    """The name of an image that a checkout's own command built."""
    done = project(tree, "image", "build", "--json", *words)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["built"])


def project(tree: Path, *words: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """``python -m lockstep ...`` of a checkout, run to its end."""
    merged = os.environ | {"PYTHONPATH": str(tree), "LOCKSTEP_TORCH": "cpu"} | variables
    return subprocess.run(
        [sys.executable, "-m", "lockstep", *words],
        cwd=tree,
        env={name: value for name, value in merged.items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def docker(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A docker command, run to its end."""
    return subprocess.run(["docker", *words], check=check, capture_output=True, text=True)


@pytest.fixture(scope="session")
def clone(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of this tree as it is, at a path with spaces; its environment is ours."""
    folder = tmp_path_factory.mktemp("a checkout") / "with spaces, and a comma"
    copy_of_tree(folder)
    os.link(wheelhouse, folder / "wheelhouse" / wheelhouse.name)
    return folder


def copy_of_tree(folder: Path) -> None:
    """Clone this checkout and bring over what is not committed yet."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    listed = ["git", "ls-files", "--modified", "--others", "--exclude-standard", "--deduplicate"]
    changed = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in changed.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder / name)
        else:  # removed, or another test's file that is gone again
            (folder / name).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def registry(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real registry on this machine, which is empty."""
    if not shutil.which("docker-registry"):
        assert not IN_CI, "CI installs docker-registry"
        pytest.skip("no docker-registry here (Debian: apt-get install docker-registry)")
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    config = folder / "config.yml"
    storage = {"filesystem": {"rootdirectory": str(folder / "data")}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": address}}))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    for _ in range(100):
        try:
            socket.create_connection(("localhost", int(address.rpartition(":")[2]))).close()
            break
        except OSError:
            time.sleep(0.1)
    yield address
    server.terminate()
    server.wait()
