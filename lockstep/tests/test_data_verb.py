"""``invoke data``, as a team uses it: one adds and pushes, another pulls and trains alike."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lockstep import cli
from lockstep.tests.conftest import ROOT, copy_of_tracked_files
from lockstep.tests.services import S3

ACTIONS = ("list", "fetch", "add", "verify", "push", "pull", "diff")


class Clone:
    """A clone of its own, with its own data, in which commands are given."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_of_tracked_files(folder)
        (self.folder / "Pipfile.lock").touch()

    def give(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "PYTHONPATH": str(self.folder)}
        own["LOCKSTEP_DATA"] = str(self.folder / "data")
        return subprocess.run(
            words, cwd=self.folder, env=os.environ | own | variables, capture_output=True, text=True
        )

    def data(self, *words: str, code: int = 0, **variables: str) -> Any:
        """What ``data`` prints as JSON; its exit code must be as said."""
        done = self.give(sys.executable, "-m", "lockstep", "data", *words, "--json", **variables)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return json.loads(done.stdout)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    (tmp_path / "clone").mkdir()
    return Clone(tmp_path / "clone")


def garments(folder: Path, count: int = 12) -> None:
    """Noise in two brightnesses, 28 x 28."""
    made = np.random.default_rng(0)
    for label, low in (("dark", 0), ("light", 150)):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = made.integers(low, low + 100, (28, 28), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


@pytest.mark.slow
def test_another_clone_trains_the_same_bits_from_the_bucket(tmp_path: Path, s3: S3) -> None:
    remote: dict[str, Any] = s3.variables | {"LOCKSTEP_DATA_REMOTE": f"s3://{s3.bucket()}/team"}
    clones = []
    for name in ("mine", "yours"):
        (tmp_path / name).mkdir()
        clones.append(Clone(tmp_path / name))
    mine, yours = clones
    garments(tmp_path / "garments")
    added = mine.data("add", str(tmp_path / "garments"), "--name=garments", "--size=28x28")
    assert added["labels"] == {"dark": 12, "light": 12}
    assert len(mine.data("push", **remote)["sent"]) == 2
    committed = Path("lockstep/examples/data/garments.yaml")
    (yours.folder / committed).write_bytes((mine.folder / committed).read_bytes())

    receipts = []
    for clone, name in ((mine, "garments"), (yours, "garments")):
        words = f"-m lockstep train apparel/base data.name={name} training.epochs=1 --seed 1 --json"
        done = clone.give(sys.executable, *words.split(), **remote)
        assert done.returncode == 0, done.stderr
        (receipt,) = (clone.folder / "runs").glob("*/receipt.json")
        receipts.append(json.loads(receipt.read_bytes()))
    first, second = receipts
    assert first["results"]["data_version"] == f"garments@{added['version']}"
    assert first["identity"] == second["identity"]
    assert first["results"]["weights_sha256"] == second["results"]["weights_sha256"]
    run = first["run"]
    done = yours.give(sys.executable, "-m", "lockstep", "reproduce", run)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_version_goes_from_add_to_diff(clone: Clone, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    lines = ["id,x,y,tag", *(f"{n},{n},{-n},{'ab'[n % 2]}" for n in range(30)), ""]
    path.write_text("\n".join(lines))
    words = (
        "add",
        str(path),
        "--name=mine",
        "--label=tag",
        "--numbers=x",
        "--numbers=y",
        "--id=id",
    )
    first = clone.data(*words)
    assert (first["new"], first["shape"]) == (True, [2])
    assert first["rows"] == {"train": 22, "validation": 4, "test": 4}
    path.write_text(path.read_text().replace("7,7,-7,b", "7,7,-7,a"))
    second = clone.data(*words)
    assert (second["new"], clone.data(*words)["new"]) == (True, False)
    found = clone.data("diff", first["data"], "mine", code=1)
    assert found["relabelled"] == [["mine.csv, line 9", "b", "a"]]
    assert clone.data("diff", "mine", second["data"])["relabelled"] == []
    assert clone.data("verify", "mine")["altered"] == []


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """A verb in this process: its exit code and what it said to standard error."""

    def give(*words: str) -> tuple[int, str]:
        try:
            code = cli.main(["data", *words])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return give


@pytest.mark.parametrize("words", [(), ("lst",)])
def test_without_a_good_action_all_are_told_in_a_line(call: Call, words: tuple[str]) -> None:
    code, told = call(*words)
    assert (code, told.count("\n"), [name for name in ACTIONS if name not in told]) == (2, 1, [])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("fetch", "digitz"), "data.name: 'digitz' is not in the catalog. Did you mean digits?"),
        (("fetch", "digits@0"), "data.name: digits@0: no such version, expected 8 or more hex"),
        (
            ("push", "digits"),
            "--to: found no storage, expected a folder or s3://BUCKET/PREFIX there",
        ),
        (("pull", "--from", "none/such"), "none/such: no such folder; create it"),
        (("add", "none.csv", "--name", "Mine"), "--name: found 'Mine', expected lowercase letters"),
        (("add", "none.csv", "--name", "mine"), "none.csv: found nothing, expected a table"),
        (
            ("add", "x", "--name=y", "--size=28"),
            "argument --size: invalid height_x_width value: '28'",
        ),
    ],
)
def test_a_mistake_is_told_in_a_line(
    call: Call, words: tuple[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCKSTEP_DATA_REMOTE", raising=False)
    code, found = call(*words)
    assert (code, found.count("\n"), told in found) == (2, 1, True), found


@pytest.mark.slow
def test_invoke_takes_the_words_that_are_given() -> None:
    invoke = str(Path(sys.executable).parent / "invoke")
    for words, wanted in (
        (("data", "list", "--json"), (0, "")),
        (("data", "fetch", "digits"), (0, "")),
        (("data", "diff", "digits", "digits"), (0, "")),
        (("data", "lst"), (2, "invalid choice: 'lst'")),
        (("data",), (2, "{list,show,fetch,add,verify,push,pull,diff}")),
        (("image", "push", "localhost:1/x", "--stage", "none"), (2, "invalid choice: 'none'")),
    ):
        done = subprocess.run([invoke, *words], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, wanted[1] in done.stderr) == (wanted[0], True), done.stderr


def test_data_add_of_what_is_missing_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    words = ["data", "add", "missing.csv", "--name", "mine", "--text", "a", "--label", "b"]
    code = f"import sys; from lockstep import cli; code = cli.main({words}); "
    code += "print(code, 'torch' in sys.modules)"
    variables = os.environ | {"LOCKSTEP_DATA": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    assert done.stdout == "2 False\n", done.stderr
    assert done.stderr.startswith("error: missing.csv: found nothing, expected a table")
