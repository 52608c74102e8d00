"""The image as SageMaker drives it: its own SDK's local mode, on a real engine."""

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lockstep.examples import load
from lockstep.examples.models.digits import Preprocess
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT
from lockstep.tests.containers.conftest import BRIEF, build, docker, project
from lockstep.tests.containers.test_services import wait_for
from lockstep.tests.services import free_ports

SDK = "sagemaker-core==2.27.0"
PICTURE = Preprocess.show(load_digits().images[7])
SETTINGS = {"model": "digits", "seed": "42"} | dict(setting.split("=") for setting in BRIEF)


@pytest.fixture(scope="module")
def image(cpu_image: str) -> str:
    return build(ROOT, "--stage", "sagemaker")


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment of its own: the SDK wants other versions than the lock."""
    folder = tmp_path_factory.mktemp("sdk") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", SDK], check=True)
    return python


def local_mode(
    python: Path, folder: Path, image: str, hosts: int, *questions: tuple[str, bytes]
) -> dict[str, Any]:
    """What came of a job with so many hosts, and of questions to an endpoint with its model."""
    (port,) = free_ports(1)
    wanted = {
        "image": image,
        "folder": str(folder),
        "port": port,
        "hosts": hosts,
        "hyperparameters": SETTINGS,
        "questions": [[kind, base64.b64encode(body).decode()] for kind, body in questions],
    }
    variables = os.environ | {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(folder)}
    done = subprocess.run(
        [python, Path(__file__).with_name("local_mode.py")],
        input=json.dumps(wanted),
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout))


def unpacked(answer: dict[str, Any], folder: Path) -> Run:
    """The run in the archive that a job left."""
    with tarfile.open(answer["model"].removeprefix("file://")) as archive:
        archive.extractall(folder, filter="data")
    return Run(folder)


def test_a_job_and_its_endpoint_in_local_mode_have_every_bit_of_the_hosts(
    sdk: Path, image: str, tmp_path: Path
) -> None:
    words = ("train", "digits/base", *BRIEF, "--seed", "42", "--runs", str(tmp_path / "host"))
    trained = project(ROOT, *words, "--json")
    assert trained.returncode == 0, trained.stderr
    png = io.BytesIO()
    PICTURE.save(png, "PNG")
    array = json.dumps([np.asarray(PICTURE).tolist()]).encode()
    questions = ("image/png", png.getvalue()), ("application/json", array), ("text/csv", b"1,2")
    found = local_mode(sdk, tmp_path, image, 1, *questions)
    run = unpacked(found, tmp_path / "run")
    here, there = json.loads(trained.stdout), run.receipt
    assert there
    assert (there["identity"], there["results"]) == (here["identity"], here["results"])
    answers = [(status, json.loads(body)) for status, body in found["answers"]]
    wanted = load("digits", tmp_path / "host" / here["run"]).predict([PICTURE])
    assert answers == [
        (200, wanted),
        (200, wanted),
        (400, {"detail": "text/csv: found a table, expected pictures."}),
    ]


def test_two_hosts_in_local_mode_train_to_the_bits_of_one(
    sdk: Path, image: str, tmp_path: Path
) -> None:
    receipts = []
    for hosts in (1, 2):
        run = unpacked(local_mode(sdk, tmp_path, image, hosts), tmp_path / f"run-{hosts}")
        receipt = run.receipt
        assert receipt
        receipts.append((receipt["results"]["weights_sha256"], receipt["timing"]["workers"]))
    assert receipts == [(receipts[0][0], 1), (receipts[0][0], 2)]


def test_the_image_starts_by_one_word_as_root_and_tells_its_failure_in_a_file(
    image: str, tmp_path: Path
) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(json.dumps({"model": "digitz"}))
    mount = f"type=bind,target=/opt/ml,source={tmp_path}"
    done = docker("run", "--rm", "--mount", mount, image, "train", check=False)
    told = "error: digitz: no such model. Did you mean digits?"
    assert (done.returncode, (tmp_path / "output" / "failure").read_text()[: len(told)]) == (
        1,
        told,
    )
    inspected = json.loads(docker("inspect", image).stdout)[0]["Config"]
    assert (inspected["Entrypoint"], inspected["User"]) == (None, "0:0")


def test_an_interrupted_job_goes_on_in_another_container(image: str, tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    long = SETTINGS | {"training.epochs": "60"}
    (config / "hyperparameters.json").write_text(json.dumps(long))
    words = ("--mount", f"type=bind,target=/opt/ml,source={tmp_path}", image, "train")
    name = docker("run", "--detach", *words).stdout.strip()
    try:
        wait_for(
            lambda: list(tmp_path.glob("checkpoints/*/checkpoints/0*")),
            lambda: docker("logs", name).stderr,
        )
        docker("stop", "--time", "60", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout == "143\n"
    finally:
        docker("rm", "--force", name)
    assert not list((tmp_path / "model").glob("*"))
    docker("run", "--rm", *words)
    receipt = json.loads((tmp_path / "model" / "receipt.json").read_bytes())
    assert receipt["timing"]["resumed_at_step"] > 0
