"""The images: built of one lock, slim, the same again; and trainings in them."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

import pytest

from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT
from lockstep.tests.containers.conftest import BRIEF, build, docker, project

TRAIN = ("train", "digits/base", "--seed", "42", *BRIEF)
HARDENED = ("--read-only", "--network", "none", "--cap-drop", "ALL")
USER = 1234  # that no image knows of


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """An empty folder of runs and one of data, which belong to some user."""
    for name in ("runs", "data"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, USER, USER)
    return tmp_path


def mounts(folders: Path) -> list[str]:
    return [f"--volume={folders / name}:/workspace/{name}" for name in ("runs", "data")]


def weights(receipt: str) -> str:
    return str(json.loads(receipt)["results"]["weights_sha256"])


def owners(folder: Path) -> set[tuple[int, int]]:
    return {(path.stat().st_uid, path.stat().st_gid) for path in [folder, *folder.rglob("*")]}


def test_it_trains_with_nothing_allowed_and_has_the_bits_of_the_host(
    cpu_image: str, folders: Path, finished_run: Run
) -> None:
    limits = (*HARDENED, "--user", f"{USER}:{USER}", *mounts(folders))
    done = docker("run", "--rm", *limits, cpu_image, "python", "-m", "lockstep", *TRAIN, "--json")
    assert weights(done.stdout) == weights((finished_run.folder / "receipt.json").read_text())
    assert owners(folders / "runs") == {(USER, USER)}


def test_a_run_of_the_host_goes_on_in_the_image_and_belongs_to_its_user(
    cpu_image: str, folders: Path, finished_run: Run
) -> None:
    runs = ("--runs", str(folders / "runs"))
    data = {"LOCKSTEP_DATA": str(folders / "data")}
    assert project(ROOT, *TRAIN, "--until", "4", *runs, **data).returncode == 0
    for path in [folders / "data", *folders.rglob("*")]:
        os.chown(path, USER, USER)
    done = project(ROOT, *TRAIN, *runs, "--in", "cpu", "--json", **data)
    assert (done.returncode, "resumes at step 4" in done.stderr) == (0, True)
    assert weights(done.stdout) == weights((finished_run.folder / "receipt.json").read_text())
    assert json.loads(done.stdout)["environment"]["image"].startswith(f"{cpu_image} sha256:")
    assert json.loads(done.stdout)["environment"]["git"]["commit"] == commit()
    assert owners(folders / "runs") == {(USER, USER)}
    [run] = (folders / "runs").iterdir()
    again = project(ROOT, "reproduce", run.name, *runs, "--in", "cpu", "--json", **data)
    assert (again.returncode, json.loads(again.stdout)["same"]) == (0, True)


def commit() -> str:
    asked = ["git", "rev-parse", "HEAD"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def test_a_signal_to_the_command_lets_the_container_save(cpu_image: str, folders: Path) -> None:
    words = ["train", "digits/base", "training.epochs=500", "--in", "cpu"]
    words += ["--runs", str(folders / "runs")]
    variables = os.environ | {"LOCKSTEP_DATA": str(folders / "data")}
    command = [sys.executable, "-m", "lockstep", *words]
    with subprocess.Popen(
        command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr
        for line in child.stderr:
            if line.startswith("epoch"):
                child.send_signal(signal.SIGTERM)
                break
        last = child.stderr.read().strip().rpartition("\n")[2]
    assert child.returncode == 143
    assert last.endswith("run the same command to resume")
    [saved] = (folders / "runs").glob("*/checkpoints/latest")
    assert saved.exists()


def test_docker_stop_lets_the_first_process_save_and_end(cpu_image: str, folders: Path) -> None:
    words = ["train", "digits/base", "training.epochs=500"]
    limits = ("--detach", "--user", f"{USER}:{USER}", *mounts(folders))
    name = docker("run", *limits, cpu_image, "python", "-m", "lockstep", *words).stdout.strip()
    try:
        while "epoch" not in docker("logs", name).stderr:
            time.sleep(0.1)
        docker("stop", "--time", "60", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "143"
        assert list((folders / "runs").glob("*/checkpoints/latest"))
    finally:
        docker("rm", "--force", name)


def test_a_change_of_the_code_installs_nothing_again(cpu_image: str, clone: Path) -> None:
    assert build(clone) == cpu_image  # all of it from the cache, at a path with spaces
    created = "{{.Created}} {{json .RootFS.Layers}}"
    before = docker("image", "inspect", "--format", created, cpu_image).stdout
    source = clone / "lockstep" / "run" / "making.py"
    source.write_text(source.read_text() + "# edited\n")
    build(clone)
    after = docker("image", "inspect", "--format", created, cpu_image).stdout
    layers = [json.loads(text.partition(" ")[2]) for text in (before, after)]
    same = [one == two for one, two in zip(*layers, strict=True)]
    *others, engine, _ = same  # the last is the team's package
    assert (all(others), engine) == (True, False)
    source.write_text(source.read_text().removesuffix("# edited\n"))
    build(clone)


def test_it_says_what_it_was_made_of(cpu_image: str) -> None:
    config = json.loads(docker("image", "inspect", cpu_image).stdout)[0]["Config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.revision"].removesuffix("-dirty") == commit()
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    lock = subprocess.run(["sha256sum", ROOT / "Pipfile.lock"], capture_output=True, text=True)
    assert labels["lockstep.lock"] == lock.stdout.split()[0]
    assert config["User"] == "1000:1000"


def test_it_has_no_compiler_no_installer_and_no_cache(cpu_image: str) -> None:
    look = (
        "command -v cc gcc g++ make uv pipenv git;"
        "find /root/.cache /var/lib/apt/lists /workspace/wheelhouse -type f -size +0 2>/dev/null;"
        "ls /etc/pip.conf /workspace/.venv/tools /workspace/.venv/setup.log 2>/dev/null"
    )
    found = docker("run", "--rm", "--user", "0", cpu_image, "sh", "-c", look, check=False)
    assert found.stdout.split() == []


def test_the_doctor_finds_it_well(cpu_image: str) -> None:
    done = docker("run", "--rm", cpu_image, "invoke", "doctor")
    assert "no GPU" in done.stdout
    assert "FIX" not in done.stdout


def test_it_is_at_most_1300_mb_and_450_to_fetch(cpu_image: str, registry: str) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", cpu_image).stdout)
    name = f"{registry}/lockstep:size"
    docker("tag", cpu_image, name)
    docker("push", name)
    docker("rmi", name)
    request = urllib.request.Request(f"http://{registry}/v2/lockstep/manifests/size")
    request.add_header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
    with urllib.request.urlopen(request) as answer:
        fetched = sum(layer["size"] for layer in json.load(answer)["layers"])
    assert (size <= 1.3e9, fetched <= 450e6) == (True, True), (size, fetched)


SECRET = b"token-0a1b2c3d"  # of a package index, given to the build


def test_a_build_from_nothing_has_the_same_files_and_no_secret(
    cpu_image: str, clone: Path, tmp_path: Path
) -> None:
    pip = tmp_path / "pip.conf"
    pip.write_bytes(b"[global]\nextra-index-url = https://user:" + SECRET + b"@index.invalid/\n")
    command = ["docker", "build", "--no-cache", "--network", "none", "--target", "train", "--quiet"]
    command += ["--file", "docker/Dockerfile", "--secret", f"id=pip,src={pip}"]
    command += ["--build-arg", f"BASE_IMAGE={os.environ.get('LOCKSTEP_BASE_IMAGE', '')}"]
    again = "lockstep:again"
    subprocess.run([*command, "--tag", again, "."], cwd=clone, check=True, capture_output=True)
    assert SECRET.decode() not in docker("history", "--no-trunc", again).stdout
    one, two = files_of(cpu_image), files_of(again)
    docker("rmi", again)
    # No exception: dates of files alone may differ, which an export of the engine stamps.
    assert {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)} == set()


def files_of(image: str) -> dict[str, object]:
    """Every entry of an image's file tree: type, mode, owner, and its content's digest."""
    name = docker("create", image).stdout.strip()
    found: dict[str, object] = {}
    with (
        subprocess.Popen(["docker", "export", name], stdout=subprocess.PIPE) as export,
        tarfile.open(fileobj=export.stdout, mode="r|") as tar,
    ):
        for entry in tar:
            file = tar.extractfile(entry) if entry.isreg() else None
            content = file.read() if file else b""
            assert SECRET not in content, entry.name
            digest = hashlib.sha256(content).hexdigest()
            about = (entry.type, entry.mode, entry.uid, entry.gid, entry.linkname)
            found[entry.name] = (*about, digest)
    docker("rm", name)
    return found


def test_push_names_the_commit_and_the_digest(cpu_image: str, registry: str, clone: Path) -> None:
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True
    )
    done = project(clone, "image", "push", f"{registry}/team/lockstep", "--json")
    if changed.stdout:
        assert (done.returncode, "commit them first" in done.stderr) == (2, True)
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
        subprocess.run(["git", "add", "--all"], cwd=clone, check=True)
        subprocess.run(
            ["git", *identity, "commit", "--quiet", "--no-verify", "-m", "x"], cwd=clone, check=True
        )
        done = project(clone, "image", "push", f"{registry}/team/lockstep", "--json")
    assert done.returncode == 0, done.stderr
    pushed = json.loads(done.stdout)["pushed"]
    assert re.fullmatch(rf"{registry}/team/lockstep@sha256:\w{{64}}", pushed)
    docker("pull", "--quiet", pushed)
    docker("rmi", pushed)
