"""The services of docker/compose.yaml: each comes up, answers at its port, and goes down."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lockstep.examples import load
from lockstep.examples.models.digits import Preprocess
from lockstep.records.run import Run
from lockstep.tests.containers.conftest import IN_CI, build, docker

PICTURES = [Preprocess.show(pixels) for pixels in load_digits().images[:20]]
ARRAYS = json.dumps([np.asarray(picture).tolist() for picture in PICTURES]).encode()
JSON, TOKEN = "application/json", "a token of tests"
KNOWN: dict[str, Any] = {"Authorization": f"Bearer {TOKEN}"}
Compose = Callable[..., subprocess.CompletedProcess[str]]


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def ask(address: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Status and content of an answer, as JSON where it is; 0 and the reason where none comes."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    request = urllib.request.Request(address, body, named)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, content = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
    try:
        return status, json.loads(content)
    except ValueError:
        return status, content


def wait_for(found: Callable[[], Any], told: Callable[[], str]) -> Any:
    """What is found as soon as there is something; after five minutes what was told instead."""
    end = time.monotonic() + 300
    while not (something := found()):
        assert time.monotonic() < end, told()
        time.sleep(0.2)
    return something


@pytest.fixture(scope="module")
def served_clone(clone: Path, finished_run: Run) -> Iterator[Path]:
    """A checkout whose folder of runs has the finished run, and a copy by another name."""
    for name in (finished_run.name, "another"):
        shutil.copytree(finished_run.folder, clone / "runs" / name, symlinks=True)
    yield clone
    shutil.rmtree(clone / "runs")


@pytest.fixture(scope="module")
def develop_image(clone: Path) -> str:
    return build(clone, "--stage", "develop")


@pytest.fixture(scope="module")
def serve_image(clone: Path) -> str:
    return build(clone, "--stage", "serve")


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    """The port that each service is told to have on this machine."""
    return {service: free_port() for service in ("lab", "mlflow", "serve")}


@pytest.fixture
def compose(served_clone: Path, ports: dict[str, int]) -> Iterator[Compose]:
    """``docker compose`` with the file of the checkout; nothing is left of it in the end."""
    if docker("compose", "version", check=False).returncode:
        assert not IN_CI, "CI has docker compose"
        pytest.skip("this docker has no compose")
    name = f"lockstep-test-{os.getpid()}"
    words = ["docker", "compose", "--project-name", name]
    words += ["--file", str(served_clone / "docker" / "compose.yaml")]
    variables = os.environ | {f"{service.upper()}_PORT": str(at) for service, at in ports.items()}

    def call(*more: str, **others: str) -> subprocess.CompletedProcess[str]:
        command, merged = [*words, *more], variables | others
        done = subprocess.run(command, env=merged, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done

    yield call
    call("down", "--volumes")
    label = f"label=com.docker.compose.project={name}"
    left = [docker(*kind, "--quiet", "--filter", label).stdout for kind in (("ps", "--all"),
            ("volume", "ls"), ("network", "ls"))]  # fmt: skip
    assert left == ["", "", ""]


def test_all_are_reached_from_this_machine_alone(compose: Compose, ports: dict[str, int]) -> None:
    services = json.loads(compose("config", "--format", "json").stdout)["services"]
    published = {
        (name, port["host_ip"], int(port["published"]))
        for name, service in services.items()
        for port in service["ports"]
    }
    assert published == {(name, "127.0.0.1", port) for name, port in ports.items()}


def test_lab_shows_the_checkout_to_who_has_the_token(
    develop_image: str, compose: Compose, ports: dict[str, int], served_clone: Path
) -> None:
    compose("up", "--detach", "--no-build", "lab")

    def logs() -> str:
        return compose("logs", "lab").stdout

    address = f"http://127.0.0.1:{ports['lab']}"
    token = wait_for(lambda: re.search(rf"{address}/lab\?token=(\w+)", logs()), logs)[1]
    wait_for(lambda: ask(f"{address}/api")[0], logs)
    assert ask(f"{address}/api/contents")[0] == 403
    status, found = ask(f"{address}/api/contents", Authorization=f"token {token}")
    seen = {path.name for path in served_clone.iterdir() if not path.name.startswith(".")}
    assert (status, {entry["name"] for entry in found["content"]}) == (200, seen)
    assert (served_clone / ".venv").exists() is False or not list(
        (served_clone / ".venv").iterdir()
    )


def test_mlflow_keeps_what_it_is_told_and_answers_to_no_foreign_name(
    develop_image: str, compose: Compose, ports: dict[str, int]
) -> None:
    address = f"http://localhost:{ports['mlflow']}"

    def up(*words: str) -> None:
        compose("up", "--detach", "--no-build", *words, "mlflow")
        wait_for(lambda: ask(f"{address}/health")[0], lambda: compose("logs", "mlflow").stdout)

    api, files = f"{address}/api/2.0/mlflow", f"{address}/api/2.0/mlflow-artifacts/artifacts"
    up()
    body = json.dumps({"name": "digits"}).encode()
    status, made = ask(f"{api}/experiments/create", body, Content_Type=JSON)
    assert status == 200, made
    request = urllib.request.Request(f"{files}/1/weights", b"some bytes", method="PUT")
    assert urllib.request.urlopen(request).status == 200

    up("--force-recreate")
    status, found = ask(f"{api}/experiments/get-by-name?experiment_name=digits")
    assert (status, found["experiment"]["experiment_id"]) == (200, made["experiment_id"])
    assert ask(f"{files}/1/weights") == (200, b"some bytes")
    assert ask(f"http://127.0.0.1:{ports['mlflow']}/")[0] == 200
    assert ask(f"{address}/", Host="elsewhere.example")[0] == 403


def test_serve_becomes_healthy_and_its_answers_have_every_bit_of_the_hosts(
    serve_image: str, compose: Compose, ports: dict[str, int], finished_run: Run
) -> None:
    variables = {"RUN": finished_run.name, "LOCKSTEP_TOKEN": TOKEN}
    compose("up", "--detach", "--no-build", "--wait", "serve", **variables)
    [container] = json.loads(f"[{compose('ps', '--format', 'json').stdout.strip()}]")
    assert container["Health"] == "healthy"
    address = f"http://127.0.0.1:{ports['serve']}"
    assert ask(f"{address}/healthz") == (200, {"status": "ok"})
    assert ask(f"{address}/model")[0] == 401
    assert ask(f"{address}/model", **KNOWN)[1]["run"] == finished_run.name
    wanted = load("digits", finished_run.folder).predict(PICTURES)
    assert ask(f"{address}/predict", ARRAYS, Content_Type=JSON, **KNOWN) == (200, wanted)
    compose("stop", "serve")
    name = container["ID"]
    assert docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "143"


def test_the_image_serves_with_nothing_allowed_and_ends_by_docker_stop(
    serve_image: str, finished_run: Run, served_clone: Path
) -> None:
    limits = ("--read-only", "--network", "none", "--cap-drop", "ALL", "--user", "1234:1234")
    folder = f"type=bind,target=/workspace/runs/any,source={finished_run.folder},readonly"
    token = ("--env", f"LOCKSTEP_TOKEN={TOKEN}")
    words = ("run", "--detach", *limits, *token, "--mount", folder, serve_image)
    name = docker(*words).stdout.strip()
    try:
        health = "{{.State.Health.Status}} {{.State.Status}}"
        wait_for(
            lambda: docker("inspect", "--format", health, name).stdout == "healthy running\n",
            lambda: docker("logs", name).stderr,
        )
        code = (
            "import sys, urllib.request as u\n"
            "to = u.Request('http://localhost:8000/predict', sys.stdin.buffer.read())\n"
            f"to.add_header('Content-Type', '{JSON}')\n"
            f"to.add_header('Authorization', 'Bearer {TOKEN}')\n"
            "print(u.urlopen(to).read().decode())"
        )
        inside = ["docker", "exec", "--interactive", name, "python", "-c", code]
        answer = subprocess.run(inside, input=ARRAYS, capture_output=True, check=True)
        assert json.loads(answer.stdout) == load("digits", finished_run.folder).predict(PICTURES)
        docker("stop", "--time", "60", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "143"
    finally:
        docker("rm", "--force", name)


def test_the_image_serves_nobody_without_a_token(serve_image: str, finished_run: Run) -> None:
    folder = f"type=bind,target=/workspace/runs/any,source={finished_run.folder},readonly"
    done = docker("run", "--rm", "--mount", folder, serve_image, check=False)
    assert (done.returncode, done.stderr.partition(",")[0]) == (2, "error: 0.0.0.0: found no token")


def test_the_image_refuses_to_guess_among_several_runs(
    serve_image: str, served_clone: Path
) -> None:
    runs = f'type=bind,target=/workspace/runs,"source={served_clone / "runs"}",readonly'
    done = docker("run", "--rm", "--mount", runs, serve_image, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        (
            "error: serve: found 2 runs in /workspace/runs, expected one, or the name of one; serve"
            " RUN, or LOCKSTEP_RUN=RUN (`invoke runs` lists all).\n"
        ),
    )
