"""Working in the image: JupyterLab at this machine's own address, and a shell, on the tree."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from lockstep.tests.containers.conftest import docker


def test_it_answers_to_its_token_and_shows_the_working_tree(clone: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "lockstep", "image", "lab", "--port", str(port)]
    variables = os.environ | {"PYTHONPATH": str(clone)}
    with subprocess.Popen(
        command, cwd=clone, env=variables, stderr=subprocess.PIPE, text=True
    ) as lab:
        assert lab.stderr
        for line in lab.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+/lab\S*token=(\w+)", line):
                break
        assert found
        try:
            names = {entry["name"] for entry in asked(port, "contents", found[1])["content"]}
            kernels = asked(port, "kernelspecs", found[1])
            published = docker("ps", "--filter", f"publish={port}", "--format", "{{.Ports}}").stdout
        finally:
            lab.send_signal(signal.SIGTERM)
            lab.stderr.read()
    assert {"notebooks", "lockstep", "README.md"} <= names
    assert kernels["kernelspecs"][kernels["default"]]["spec"]["display_name"] == "Lockstep"
    assert published.strip() == f"127.0.0.1:{port}->{port}/tcp"
    assert docker("ps", "--filter", f"publish={port}", "--quiet").stdout == ""


def test_a_shell_has_the_tasks_and_the_working_tree(clone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lockstep", "image", "shell"],
        cwd=clone,
        env=os.environ | {"PYTHONPATH": str(clone)},
        input="invoke doctor | grep ' lock:'; cat Pipfile; exit 3",
        capture_output=True,
        text=True,
    )
    first, _, rest = done.stdout.partition("\n")
    assert (done.returncode, first[:9]) == (3, "ok    loc"), done.stderr
    assert rest == (clone / "Pipfile").read_text()


def asked(port: int, what: str, token: str) -> dict[str, Any]:
    """JupyterLab's answer, once it listens: it prints its address a moment before."""
    address = f"http://127.0.0.1:{port}/api/{what}?token={token}"
    for _ in range(100):
        try:
            with urllib.request.urlopen(address) as answer:
                return dict(json.load(answer))
        except ConnectionError:
            time.sleep(0.1)
    raise AssertionError(f"nobody listens at {port}")
