"""The audit: nothing passes that could not be checked."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lockstep.ground.errors import WriteError
from lockstep.publishing.audit import audit
from lockstep.tests.conftest import ROOT, plain_environment
from lockstep.tests.trees import offline

pytestmark = pytest.mark.slow  # pip-audit takes seconds to start

# As OSV has it: what is known of the version of jinja2 that an audit asks for first.
CANARY: dict[str, object] = {
    "id": "GHSA-462w-v97r-4m45",
    "summary": "Sandbox escape in Jinja2",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.10.1"}]}],
        }
    ],
}


@contextmanager
def advisories(known: dict[tuple[str, str], dict[str, object]]) -> Iterator[tuple[str, set[str]]]:
    """The address of a server that answers as OSV does, and what it was asked."""
    asked: set[str] = set()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["content-length"])))
            pin = (query["package"]["name"], query["version"])
            asked.add("==".join(pin))
            answer = {"vulns": [known[pin]]} if pin in known else {}
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small clone: the lock of a few packages, and a file."""
    folder = tmp_path / "clone"
    folder.mkdir()
    lock = json.loads((ROOT / "Pipfile.lock").read_bytes())
    small = {
        "_meta": lock["_meta"],
        "default": {name: lock["default"][name] for name in ("numpy", "pillow")},
        "develop": {name: lock["develop"][name] for name in ("black", "boolean.py")},
        "cpu": {"torch": lock["cpu"]["torch"]},
        "gpu": {"torch": lock["gpu"]["torch"]},
    }
    (folder / "Pipfile.lock").write_text(json.dumps(small))
    shutil.copy(ROOT / "Pipfile", folder)
    (folder / "a.py").write_text("a = 1\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    return folder


def found(
    clone: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> dict[str, tuple[bool, str]]:
    """What an audit of a clone finds, by check."""
    monkeypatch.setenv("LOCKSTEP_ADVISORIES", address)
    rows = audit(clone.parent / "audit", lambda _: None, clone)
    return {row.check: (row.ok, row.found) for row in rows}


def test_every_category_of_the_lock_is_looked_up_and_parts_and_licences_are_listed(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with advisories({("jinja2", "2.4.1"): CANARY}) as (address, asked):
        rows = found(clone, monkeypatch, address)
    lock = json.loads((ROOT / "Pipfile.lock").read_bytes())
    names = {"numpy": "default", "pillow": "default", "black": "develop", "torch": "gpu"}
    names["boolean.py"] = "develop"  # a name that advisories have as boolean-py
    pins = {f"{n}=={lock[part][n]['version'].lstrip('=')}" for n, part in names.items()}
    assert asked == {pin.replace(".py=", "-py=") for pin in pins} | {"jinja2==2.4.1"}
    assert rows["advisories"] == (True, "5 packages, 0 known to be vulnerable")
    assert [ok for ok, _ in rows.values()] == [True] * 4
    folder = clone.parent / "audit"
    parts = json.loads((folder / "sbom.json").read_bytes())["components"]
    assert {part["name"] for part in parts} == set(names)
    licences = {row["Name"]: row["License"] for row in json.loads(
        (folder / "licences.json").read_bytes())}  # fmt: skip
    assert licences["invoke"].startswith("BSD")


def test_a_package_that_is_known_to_be_vulnerable_does_not_pass(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = json.loads((ROOT / "Pipfile.lock").read_bytes())
    version = lock["default"]["pillow"]["version"].lstrip("=")
    known: dict[str, object] = {
        "id": "PYSEC-1",
        "affected": [{"package": {"name": "pillow", "ecosystem": "PyPI"}}],
    }
    with advisories({("jinja2", "2.4.1"): CANARY, ("pillow", version): known}) as (address, _):
        ok, told = found(clone, monkeypatch, address)["advisories"]
    assert (ok, told) == (
        False,
        f"5 packages, 1 known to be vulnerable; pillow {version}: PYSEC-1",
    )


def test_who_knows_of_no_advisory_at_all_is_not_believed(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with advisories({}) as (address, _):
        ok, told = found(clone, monkeypatch, address)["advisories"]
    assert (ok, told) == (
        False,
        "not checked: the database does not list jinja2==2.4.1 as vulnerable",
    )


def test_the_digest_of_a_file_is_no_secret_and_other_hex_numbers_are(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    recipe = clone / "recipe.yaml"
    recipe.write_text(f"start:\n  weights: base.safetensors\n  sha256: {digest}\n")
    subprocess.run(["git", "add", "recipe.yaml"], cwd=clone, check=True)
    assert found(clone, monkeypatch, "http://127.0.0.1:9/")["secrets"][0] is True
    recipe.write_text(f"start:\n  token: {digest}\n")
    ok, told = found(clone, monkeypatch, "http://127.0.0.1:9/")["secrets"]
    assert (ok, "recipe.yaml:2 (Hex High Entropy String)" in told) == (False, True)


def test_a_secret_in_a_tracked_file_does_not_pass(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "AKIA" + "QWERTYUIOPASDFGH"
    (clone / "a.py").write_text(f'a = 1\nkey = "{key}"\n')
    (clone / "untracked.py").write_text(f'key = "{key}"\n')
    ok, told = found(clone, monkeypatch, "http://127.0.0.1:9/")["secrets"]
    assert (ok, "a.py:2 (AWS Access Key)" in told, "untracked" in told) == (False, True, False)


def test_without_a_network_the_audit_fails_and_says_what_it_could_not_check(
    tmp_path: Path,
) -> None:
    words = [sys.executable, "-m", "lockstep", "audit", "--json", "--output", str(tmp_path / "out")]
    done = subprocess.run(
        offline(*words), cwd=ROOT, env=plain_environment(), capture_output=True, text=True
    )
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert (done.returncode, rows["advisories"]["ok"]) == (1, False)
    assert rows["advisories"]["found"].startswith("not checked: no advisories could be reached")
    # The rest needs no network, and is what this clone says of itself.
    assert [rows[name]["ok"] for name in ("secrets", "parts list", "licences")] == [True] * 3
    assert rows["secrets"]["found"].endswith(" 0 with what looks like a secret")


def test_a_folder_that_cannot_be_is_reported_in_one_line(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.touch()
    ways = {taken: "File exists", taken / "a": "Not a directory", Path("/proc/a"): "No such file"}
    for output, why in ways.items():
        with pytest.raises(WriteError) as error:
            audit(output, lambda _: None)
        told = str(error.value)
        assert told.startswith(f"{output}: {why}") and told.endswith(
            "; correct that, then run the same command again."
        )
