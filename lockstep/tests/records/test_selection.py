"""Runs chosen by conditions and put in order."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lockstep.ground.digests import readable_json
from lockstep.ground.errors import RunError
from lockstep.records.run import Run, runs
from lockstep.records.selection import choose, condition
from lockstep.tests.records.test_receipt import resealed, retold


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, finished_run: Run) -> Path:
    """Three runs, whose files say different things: a, b finished, c stopped; c is the newest."""
    place = tmp_path_factory.mktemp("runs")
    for number, (accuracy, lr) in enumerate([(0.9, 0.1), (0.8, 1e-3), (0.0, 0.01)]):
        copy = place / f"digits-{'abc'[number]}-s{number}-0123abcd"
        copy.mkdir()
        for name in ("identity.json", "parts.json", "experiment.yaml", "receipt.json"):
            shutil.copy(finished_run.folder / name, copy)
        retold(copy, "abc"[number], number, lr=lr)
        receipt = json.loads((copy / "receipt.json").read_text())
        receipt["results"]["metrics"]["test"]["accuracy"] = accuracy
        (copy / "receipt.json").write_bytes(resealed(receipt))
    (copy / "receipt.json").unlink()
    return place


def chosen(folder: Path, *where: str, sort: str = "") -> str:
    """The recipes of the runs that are chosen, which begin in the order a, b, c."""
    found = sorted(runs(folder), key=lambda run: run.name)
    records = choose(found, map(condition, where), sort)
    return "".join(record.run.name.split("-")[1] for record in records)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("test.accuracy>0.8", "a"),
        ("test.accuracy>=0.8", "ab"),
        ("test.accuracy<0.9", "b"),
        ("test.accuracy <= 0.9", "ab"),
        ("test.accuracy==0.8", "b"),
        ("test.accuracy!=0.8", "a"),  # c has none
        ("training.lr==1e-3", "b"),
        ("training.lr<.05", "bc"),
        ("training.checkpoint_every==3", "abc"),  # decides no bit
        ("seed==1", "b"),
        ("seed>0", "bc"),
        ("recipe==c", "c"),
        ('recipe!="c"', "ab"),
        ("state==finished", "ab"),
        ("state==stopped", "c"),
        ("model==digits", "abc"),
        ("data.name!=digits", ""),
        ("data.name==1", ""),
        ("seed==true", ""),
    ],
)
def test_a_condition_chooses_the_runs_for_which_it_holds(
    folder: Path, where: str, wanted: str
) -> None:
    assert chosen(folder, where) == wanted


def test_all_conditions_must_hold(folder: Path) -> None:
    assert chosen(folder, "seed<2", "training.lr<0.05") == "b"


@pytest.mark.parametrize(
    ("sort", "wanted"),
    [
        ("test.accuracy", "bac"),
        ("-test.accuracy", "abc"),  # who has none comes last both ways
        ("training.lr", "bca"),
        ("-training.lr", "acb"),
        ("-recipe", "cba"),
        ("data.name", "abc"),
        ("-data.name", "abc"),  # equal ones stay as they were
        ("-seed", "cba"),
    ],
)
def test_runs_are_sorted_by_a_value_up_and_down(folder: Path, sort: str, wanted: str) -> None:
    assert chosen(folder, sort=sort) == wanted


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (
            "test.acuracy>0.9",
            "test.acuracy: no such metric or setting. Did you mean test.accuracy?",
        ),
        ("training.l==0.9", "training.l: no such metric or setting. Did you mean training.lr?"),
        ("lr==0.9", "lr: no such metric or setting. Did you mean training.lr?"),
        ("test.accuracy", "--where test.accuracy: found no condition, expected a name, one of"),
        ("test.accuracy>", "--where test.accuracy>: found '', expected a number after >"),
        ("test.accuracy>nan", "--where test.accuracy>nan: found 'nan', expected a number after >"),
        ("test.accuracy=>0.9", "--where test.accuracy=>0.9: found no condition"),
        ("state==done", "--where state==done: no such state. "),
        ("recipe>3", "--where recipe>3: found 'a' in digits-a-s0-0123abcd, which has no order"),
    ],
)
def test_a_wrong_condition_is_refused_in_one_line(folder: Path, where: str, told: str) -> None:
    with pytest.raises(RunError) as error:
        chosen(folder, where)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_a_setting_that_no_run_has_but_a_model_has_is_no_mistake(folder: Path) -> None:
    where = [condition("model.widths==[8, 16]")]
    assert choose(runs(folder), where, known=["model.widths"]) == []
    with pytest.raises(RunError, match="widths: no such metric or setting"):
        choose(runs(folder), where)


def test_an_altered_run_has_no_values(folder: Path, tmp_path: Path) -> None:
    place: Any = shutil.copytree(folder, tmp_path / "runs")
    (place / "digits-a-s0-0123abcd" / "receipt.json").write_text("{")
    (place / "digits-b-s1-0123abcd" / "parts.json").write_text("[]")
    (place / "digits-b-s1-0123abcd" / "experiment.yaml").write_text("a: [")
    assert chosen(place, "test.accuracy>0") == "b"
    assert chosen(place, "training.lr>0") == "ac"
    assert chosen(place, "state==altered") == "ab"


def test_a_setting_that_the_identity_does_not_have_is_not_believed(
    folder: Path, tmp_path: Path
) -> None:
    place: Any = shutil.copytree(folder, tmp_path / "runs")
    path = place / "digits-a-s0-0123abcd" / "parts.json"
    parts = json.loads(path.read_bytes())
    parts["experiment"]["training"]["lr"] = 0.5
    path.write_bytes(readable_json(parts))
    assert chosen(place, "training.lr==0.5") == ""
    assert chosen(place, "state==altered") == "a"
