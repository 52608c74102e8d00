"""A run of the first edition, trained by its code: what the verbs of this one make of it.

``first_edition/`` has the files of ``train digits/base --seed 1`` with 2 epochs of 128 examples and
a narrow model, as commit 8910f80 wrote them; the source is compressed.
"""

import dataclasses
import json
import lzma
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from lockstep.data.dataset import Split
from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records import receipt, reproduce
from lockstep.records.compare import compare
from lockstep.records.run import Run
from lockstep.records.verify import verify
from lockstep.run.keeping import open_data
from lockstep.run.story import run_experiment
from lockstep.tests.conftest import Call, full_experiment

FILES = Path(__file__).with_name("first_edition")
NAME = "digits-base-s1-5d67097f"


@pytest.fixture
def old(tmp_path: Path) -> Run:
    """A runs folder with the run."""
    folder = tmp_path / "runs" / NAME
    folder.mkdir(parents=True)
    for path in FILES.iterdir():
        shutil.copy(path, folder)
    packed = folder / "source.zip.xz"
    (folder / "source.zip").write_bytes(lzma.decompress(packed.read_bytes()))
    packed.unlink()
    return Run(folder)


def test_it_is_whole_and_says_what_it_said(old: Run) -> None:
    assert verify(old) == []
    written = json.loads((old.folder / "receipt.json").read_bytes())
    found = old.finished_receipt()
    assert written["schema"] == 1
    assert found["environment"].pop("lockstep") == "first edition"  # type: ignore[misc]
    assert found == written


def test_it_is_listed_and_chosen_by_what_it_recorded(call: Call, old: Run) -> None:
    where = ("--where", "test.accuracy>0.1", "--where", "training.epochs==2")
    code, out, _ = call("runs", "--runs", str(old.folder.parent), "--json", *where)
    (line,) = json.loads(out)
    assert (code, line["run"], line["state"], line["identity"]) == (
        0,
        NAME,
        "finished",
        "5d67097fea08",
    )


def test_its_weights_answer_and_are_worth_what_its_receipt_says(
    call: Call, old: Run, data_folder: Path
) -> None:
    runs = ("--runs", str(old.folder.parent))
    code, out, _ = call("evaluate", NAME, *runs, "--json")
    metrics = old.finished_receipt()["results"]["metrics"]["test"]
    assert (code, json.loads(out)) == (0, {"test": metrics, "as_in_receipt": True})


def test_the_same_settings_have_the_same_bits_in_this_edition(old: Run, place: Place) -> None:
    settings = old.experiment()
    overrides = [
        f"{section}.{name}={value}"
        for section, values in (("model", settings["model"]), ("training", settings["training"]))
        for name, value in dict(values).items()
    ]
    experiment = full_experiment("digits/base", "data.limit=128", *overrides, seed=1)
    whole = open_data("digits", place, Watch())
    train = whole.splits["train"]  # of which that edition took the first rows
    first = Split(train.inputs[:128], train.target[:128])
    dataset = dataclasses.replace(whole, splits=whole.splits | {"train": first})
    run = run_experiment(experiment, place, Watch(), dataset=dataset)
    assert run
    found = compare(old, run)
    assert (found.same, found.step, found.results, found.tensor) == (True, None, [], None)
    assert run.name != old.name


# What its code uses of OmegaConf, which has left the lock: enough for settings without a mistake.
OMEGACONF = """
class OmegaConf:
    def structured(kind):
        return {"": kind} | vars(kind())

    def set_readonly(section, _):
        pass

    def update(section, name, value):
        section[name] = float(value) if isinstance(section[name], float) else value

    def to_object(section):
        values = dict(section)
        return values.pop("")(**values)
"""


@pytest.fixture
def omegaconf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OmegaConf, or what stands in for it where it is not installed."""
    if not find_spec("omegaconf"):
        package = tmp_path / "packages" / "omegaconf"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(OMEGACONF)
        (package / "errors.py").write_text("class OmegaConfBaseException(Exception):\n    pass\n")
        monkeypatch.syspath_prepend(package.parent)
        monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)


@pytest.mark.slow
@pytest.mark.usefixtures("omegaconf")
def test_it_is_reproduced_by_its_own_source(call: Call, old: Run) -> None:
    code, out, err = call("reproduce", NAME, "--trust-code", "--runs", str(old.folder.parent))
    weights = old.finished_receipt()["results"]["weights_sha256"]
    assert (code, out.splitlines()[0]) == (0, f"same bits: 4 steps, weights sha256 {weights}"), err


def test_a_package_that_its_code_imports_and_is_not_installed_is_named_in_one_line(
    call: Call, old: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "find_spec", lambda name: name != "omegaconf")
    assert call("reproduce", NAME, "--runs", str(old.folder.parent)) == (
        2,
        "",
        f"error: {NAME}: omegaconf 2.4.0 is not installed, but its code imports it; install "
        "omegaconf==2.4.0, or reproduce the run in a clone at commit 8910f800a4e9.\n",
    )


def test_it_is_checked_out_with_its_source(call: Call, old: Run, tmp_path: Path) -> None:
    code, _, err = call("checkout", NAME, str(tmp_path / "out"), "--runs", str(old.folder.parent))
    # A tree without the first edition's history does not know this code, and says so.
    assert (code, err == "" or err.startswith("warning: project/")) == (0, True)
    assert (tmp_path / "out" / "project" / "__main__.py").exists()
    assert verify(Run(tmp_path / "out" / "runs" / NAME)) == []


def test_a_bundle_of_it_is_refused_in_one_line(call: Call, old: Run) -> None:
    experiment = old.folder / "experiment.yaml"
    text = experiment.read_text()
    experiment.write_text(
        text[: text.index("accept:")] + text[text.index("name: digits\nrecipe") :]
    )
    code, out, err = call("bundle", NAME, "--runs", str(old.folder.parent))
    assert (code, out, err.splitlines()[:-1]) == (2, "", [f"bundling {NAME}"])
    assert err.splitlines()[-1].startswith(f"error: {old.folder}: trained by the first edition")


def resealed(run: Run, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    """Change a receipt and give it the digest of what it holds then."""
    path = run.folder / "receipt.json"
    content = json.loads(path.read_bytes())
    change(content)
    del content["digest"]
    content["digest"] = digest_of(canonical_json(content))
    path.write_bytes(readable_json(content))


def test_what_its_earliest_receipts_did_not_say_is_read_as_not_recorded(old: Run) -> None:
    def earliest(content: dict[str, dict[str, object]]) -> None:
        del content["level"]
        del content["timing"]["workers"]
        for name in ("packages", "notebook"):
            del content["environment"][name]
        for name in ("metrics_sha256", "source_sha256", "golden_sha256", "data_version"):
            del content["results"][name]

    resealed(old, earliest)
    found = old.finished_receipt()
    assert verify(old) == []
    assert found["level"] == {
        "promise": "same bits on this machine",
        "lowered": ["its Lockstep did not verify operations yet"],
    }
    assert (found["timing"]["workers"], found["environment"]["notebook"]) == (1, False)
    assert (found["environment"]["packages"], found["results"]["golden_sha256"]) == ({}, "")
    assert old.summary()["state"] == "finished"


def test_what_every_receipt_had_is_missed(old: Run) -> None:
    def change(content: dict[str, dict[str, object]]) -> None:
        del content["results"]["weights_sha256"]

    resealed(old, change)
    assert verify(old) == ["receipt.json: results.weights_sha256 not found"]
    assert old.summary()["state"] == "altered"


def test_receipts_of_this_edition_have_its_schema(finished_run: Run) -> None:
    found = finished_run.finished_receipt()
    assert (found["schema"], finished_run.parts["schema"]) == (receipt.SCHEMA, 3)
