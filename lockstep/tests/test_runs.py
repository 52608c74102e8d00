"""The verbs on runs that are there: chosen, put side by side, checked out, deleted."""

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.examples.models.digits import Preprocess
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, Call, plain_environment
from lockstep.tests.records.test_receipt import retold


@pytest.fixture
def runs(tmp_path: Path, finished_run: Run) -> Path:
    """A runs folder with a finished run, a stopped one that is newer, and an altered one."""
    folder = tmp_path / "runs"
    shutil.copytree(finished_run.folder, folder / finished_run.name, symlinks=True)
    for number, name in enumerate(("digits-base-s7-0123abcd", "digits-mine-s8-0123abcd")):
        copy = shutil.copytree(finished_run.folder, folder / name, symlinks=True)
        retold(copy, ("base", "mine")[number], 7 + number)
        (copy / "receipt.json").unlink()
        if number:
            (copy / "receipt.json").write_text("{")
        os.utime(copy, (2 - number, 2 - number))
    os.utime(folder / finished_run.name, (0, 0))
    return folder


def listed(out: str) -> list[str]:
    """The first word of each line below the head of a table."""
    return [line.split()[0] for line in out.splitlines()[1:]]


def test_the_list_has_the_runs_that_are_chosen_with_what_they_were_chosen_by(
    call: Call, runs: Path, finished_run: Run
) -> None:
    words = ["runs", "--runs", str(runs), "--model", "digits", "--where", "test.loss<9"]
    words += ("--where", "training.epochs==2", "--sort", "-training.lr")
    assert listed(call(*words)[1]) == [finished_run.name]
    (row,) = json.loads(call(*words, "--json")[1])
    assert finished_run.receipt
    loss = finished_run.receipt["results"]["metrics"]["test"]["loss"]
    (plain,) = json.loads(call("runs", "--runs", str(runs), "--json", "--where=seed==42")[1])
    assert row == plain | {"test.loss": loss, "training.epochs": 2, "training.lr": 0.004}


def test_the_list_is_sorted_by_a_key_whichever_way_it_is_given(call: Call, runs: Path) -> None:
    names = sorted(path.name for path in runs.iterdir())
    by_seed = sorted(names, key=lambda name: int(name.split("-s")[1].split("-")[0]))
    ways = (("--sort", "-seed"), ("--sort=-seed",), ("--sort", "seed"))
    found = [listed(call("runs", "--runs", str(runs), *way)[1]) for way in ways]
    assert found == [by_seed[::-1], by_seed[::-1], by_seed]


def test_none_chosen_is_told_and_is_no_mistake(call: Call, runs: Path) -> None:
    words = ("runs", "--runs", str(runs), "--model", "tags")
    assert call(*words) == (0, f"none of the 3 runs in {runs} is so\n", "")
    assert call(*words, "--json") == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("runs", "--model", "digit"), "--model digit: no such model. Did you mean digits? (there"),
        (
            ("runs", "--where", "test.accuracy"),
            "--where test.accuracy: found no condition, expected",
        ),
        (("runs", "--sort", "-test.acc"), "test.acc: no such metric or setting. Did you mean test"),
        (("runs", "--sort"), "argument --sort: expected one argument"),
        (("diff", "digits-base-s7", "no"), "no: no such run in "),
        (("checkout", "digits-base-s7", "out"), "{runs}/digits-base-s7-0123abcd: is stopped at st"),
        (("delete", "digits-base-s7"), "delete: no terminal to ask on; with --yes it would move "),
        (("delete", "--purge", "digits"), "digits: found 0 such runs in {runs}/.trash, expected"),
        (("delete",), "delete: found no RUN, expected some, or --purge to empty the trash."),
        (
            ("delete", "--restore"),
            "delete: found no RUN, expected some, or --purge to empty the tra",
        ),
        *[
            ((*verb, name), f"{name!r}: names no run, expected a name, its beginning or a path")
            for verb in (
                ("delete", "--yes"),
                ("delete", "--purge", "--yes"),
                ("delete", "--restore"),
            )
            for name in ("", " ", ".", "..", "/")
        ],
        *[
            (
                (verb, *before, "", *after),
                "'': names no run, expected a name, its beginning or a path",
            )
            for verb, before, after in (
                ("evaluate", (), ()),
                ("predict", (), ("x",)),
                ("serve", (), ()),
                ("accept", (), ()),
                ("bundle", (), ()),
                ("publish", ("--to", "runs"), ()),
                ("checkout", (), ("out",)),
                ("reproduce", (), ()),
                ("diff", (), ("digits-base-s7",)),
                ("compare", ("digits-base-s7",), ()),
            )
        ],
        (
            ("accept", "digits-base-s7"),
            "{runs}/digits-base-s7-0123abcd: is stopped at step 10, exp",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line_and_changes_nothing(
    call: Call,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(runs.parent)
    before = sorted(runs.parent.rglob("*"))
    code, out, err = call(*words, "--runs", str(runs))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {told.format(runs=runs)}")
    assert sorted(runs.parent.rglob("*")) == before


@pytest.mark.slow
def test_diff_shows_what_differs_and_is_no_verdict(
    call: Call, runs: Path, finished_run: Run
) -> None:
    words = ("diff", finished_run.name, "digits-base-s7", "--runs", str(runs))
    assert finished_run.receipt
    metrics = finished_run.receipt["results"]["metrics"]
    code, out, _ = call(*words)
    names = [f"{split}.{name}" for split in metrics for name in ("accuracy", "f1", "loss")]
    told = [line.split() for line in out.splitlines()[1:]]
    assert (code, [line[:2] for line in told if line[0] == "metric"]) == (
        0,
        [["metric", name] for name in sorted(names)],
    )
    found = json.loads(call(*words, "--json")[1])
    assert found["names"] == [finished_run.name, "digits-base-s7-0123abcd"]
    assert found["metrics"][0] == {
        "name": "test.accuracy",
        "a": metrics["test"]["accuracy"],
        "b": None,
    }
    itself = ("diff", finished_run.name, finished_run.name, "--runs", str(runs))
    told_nothing = (
        f"nothing that is recorded of {finished_run.name} and {finished_run.name} differs"
    )
    assert call(*itself) == (0, f"{told_nothing}\n", "")
    assert call(*itself, "--source") == (0, "", "")


@pytest.mark.slow
def test_a_checked_out_run_is_used_by_the_commands_that_are_printed(
    call: Call, runs: Path, finished_run: Run, tmp_path: Path
) -> None:
    """Evaluated and asked by its own source; and the same training there is known to be done."""
    from sklearn.datasets import load_digits

    Preprocess.show(load_digits().images[3]).save(tmp_path / "three.png")
    folder = tmp_path / "it's here"
    code, out, _ = call("checkout", finished_run.name, str(folder), "--runs", str(runs))
    head, go, evaluate, predict = out.splitlines()
    assert (code, head.startswith(f"checked out {finished_run.name}")) == (0, True)
    shutil.rmtree(runs)  # it is not needed any more
    train = f"{shlex.quote(sys.executable)} -m lockstep train digits --seed 42"
    script = [go, evaluate, predict.replace("INPUT", str(tmp_path / "three.png")), train]
    done = subprocess.run(
        ["sh", "-ec", "\n".join(script)], env=plain_environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[1] == "as in the receipt"
    assert lines[2].startswith(f"{tmp_path}/three.png: ")
    assert lines[3] == f"run {folder / 'runs' / finished_run.name}"


def test_deleted_runs_are_in_no_list_until_they_are_restored(call: Call, runs: Path) -> None:
    where = ("--runs", str(runs))
    before = call("runs", *where)
    code, out, _ = call("delete", "digits-base-s7", "digits-mine", "--yes", *where)
    gone = [f"{runs}/.trash/{name}-0123abcd" for name in ("digits-base-s7", "digits-mine-s8")]
    assert (code, out.splitlines()) == (0, [f"deleted {path}" for path in gone])
    assert len(listed(call("runs", *where)[1])) == 1
    assert call("diff", "digits-base-s7", "digits-mine", *where)[0] == 2
    code, out, _ = call("delete", "--restore", "digits-mine", "digits-base-s7", "--json", *where)
    assert [Path(path).parent for path in json.loads(out)["restored"]] == [runs, runs]
    assert call("runs", *where) == before
    assert call("delete", "digits-base-s7", "--yes", *where)[0] == 0
    assert call("delete", "--purge", "--yes", *where)[:2] == (
        0,
        "removed digits-base-s7-0123abcd\n",
    )
    assert call("delete", "--purge", *where)[:2] == (0, "removed nothing: the trash is empty\n")
    assert list((runs / ".trash").iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("what\n", 1), ("\n", 1), ("\x04", 1)],
)
def test_on_a_terminal_it_asks_before_it_deletes(runs: Path, answer: str, code: int) -> None:
    ours, theirs = pty.openpty()
    words = ["delete", "digits-base-s7", "--runs", str(runs)]
    os.write(ours, answer.encode())
    done = subprocess.run(
        [sys.executable, "-m", "lockstep", *words],
        cwd=ROOT,
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(ours), os.close(theirs)
    question = "move into the trash: digits-base-s7-0123abcd? [y/N] "
    assert (done.returncode, done.stderr.startswith(question)) == (code, True)
    assert (runs / "digits-base-s7-0123abcd").exists() == bool(code)
