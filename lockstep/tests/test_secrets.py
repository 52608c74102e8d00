"""No secret of the environment is in a file that a run leaves, nor in what a command says."""

import io
import secrets
import signal
import subprocess
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from lockstep.tests.conftest import command
from lockstep.tests.services import free_ports
from lockstep.tests.serving.test_app import start

pytestmark = pytest.mark.slow

BRIEF = ("digits/base", "training.epochs=2", "data.limit=300", "accept.test.accuracy=>= 0.05")


class Seen:
    """All that was said and written, to be searched."""

    def __init__(self) -> None:
        self.places: dict[str, bytes] = {}

    def said(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = command(*words, **variables)
        self.places[" ".join(words)] = (done.stdout + done.stderr).encode()
        return done

    def written(self, folder: Path) -> None:
        """Each file below a folder; those in a zip as they are when it is opened."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.places[str(path)] = path.read_bytes()
                if path.suffix == ".zip":
                    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as file:
                        self.places |= {f"{path}/{n}": file.read(n) for n in file.namelist()}

    def where(self, word: str) -> list[str]:
        return [place for place, content in self.places.items() if word.encode() in content]


def test_no_secret_of_the_environment_is_told_or_written(tmp_path: Path, data_folder: Path) -> None:
    words = {name: secrets.token_hex(16) for name in ("token", "aws", "session", "mlflow", "s3")}
    seen, runs, shared = Seen(), tmp_path / "runs", tmp_path / "shared"
    shared.mkdir()
    assert command("keys", "--output", str(tmp_path / "keys")).returncode == 0
    key = tmp_path / "keys" / "lockstep.key"
    words["key"] = key.read_text().splitlines()[1]
    dead, port = free_ports(2)
    variables = {
        "LOCKSTEP_TOKEN": words["token"],
        "LOCKSTEP_SIGNING_KEY": str(key),
        "LOCKSTEP_TRACK": "on",
        "LOCKSTEP_WEIGHTS": str(shared),
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": words["aws"],
        "AWS_SESSION_TOKEN": words["session"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ENDPOINT_URL": f"http://me:{words['s3']}@127.0.0.1:{dead}",
        "MLFLOW_TRACKING_URI": f"http://me:{words['mlflow']}@127.0.0.1:{dead}",
    }
    place = ("--runs", str(runs))
    codes = [seen.said("train", *BRIEF, "--seed", "42", *place, **variables).returncode]
    (run,) = runs.glob("digits-*")
    remote = ("data", "push", "digits", "--to", "s3://bucket/prefix")
    for line in (
        ("bundle", run.name, *place),
        ("publish", run.name, *place),
        ("reproduce", run.name, *place),
        ("runs", *place, "--json"),
        ("config", *BRIEF),
        ("doctor",),
        ("track", "--sync", *place),
        (*remote[:-1], f"s3://me:{words['s3']}@bucket/prefix"),
        remote,
    ):
        codes.append(seen.said(*line, **variables).returncode)
    assert codes == [0, 0, 0, 0, 0, 0, codes[6], 2, 2, 2]
    server = start(run.name, *place, "--host", "0.0.0.0", "--port", str(port), **variables)
    assert server.stdout
    seen.places["address"] = server.stdout.readline().encode()
    for token in (words["token"], "guess"):
        for path in ("/", "/model", "/metrics", "/openapi.json", "/readyz"):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
            request.add_header("Authorization", f"Bearer {token}")
            try:
                with urllib.request.urlopen(request) as answer:
                    seen.places[f"{path} {token}"] = answer.read()
            except urllib.error.HTTPError as error:
                seen.places[f"{path} {token}"] = error.read() + str(error.headers).encode()
    server.send_signal(signal.SIGTERM)
    seen.places["serve"] = "".join(server.communicate(timeout=60)).encode()
    seen.written(runs)
    seen.written(shared)
    assert {name: seen.where(word) for name, word in words.items()} == {name: [] for name in words}
    # What is searched is what was said and written: the bundle, the servers that did not answer.
    assert str(run / "model.tar.gz") in seen.where(run.name)
    assert len(seen.where(f"127.0.0.1:{dead}")) >= 2
