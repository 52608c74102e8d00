"""How a run is listed that failed, was copied or renamed, and which one a short name means."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.examples.models.digits import Preprocess
from lockstep.ground.errors import Diverged, ModelError
from lockstep.ground.place import Place
from lockstep.records.run import Run, find_run, runs
from lockstep.run.keeping import record_failure
from lockstep.tests.conftest import Call
from lockstep.tests.records.test_receipt import resealed
from lockstep.tracking.export import export


def test_a_run_that_crashes_before_its_rehearsal_passed_leaves_no_folder(
    train_briefly: Callable[..., Run], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("fit: found no digits, expected some.")

    monkeypatch.setattr(Preprocess, "fit", refuse)
    with pytest.raises(ModelError, match="found no digits"):
        train_briefly()
    assert list(place.runs.iterdir()) == []


def test_a_run_that_fails_is_listed_with_its_reason_until_it_resumes(
    train_briefly: Callable[..., Run], place: Place, call: Call
) -> None:
    with pytest.raises(Diverged) as error:
        train_briefly("digits/base", "training.lr=1e30", "training.checkpoint_every=1")
    (run,) = runs(place.runs)
    state = f"failed at step {run.last_step}: {' '.join(str(error.value).split())}"
    where = ("runs", "--runs", str(place.runs), "--json")
    (line,) = json.loads(call(*where, "--where", "state==failed")[1])
    assert (line["run"], line["state"], export(run).status) == (run.name, state, "FAILED")
    with record_failure(run):  # as when it is trained again
        pass
    assert (run.state, export(run).status) == (f"stopped at step {run.last_step}", "KILLED")


@pytest.fixture
def three(finished_run: Run, tmp_path: Path) -> Path:
    """Three runs of one recipe and seed: the one finished last, one before it, one unfinished."""
    for day, name in (("02", "a"), ("01", "b"), ("03", "c")):
        copy = tmp_path / f"digits-base-s42-{name * 8}"
        shutil.copytree(finished_run.folder, copy, symlinks=True)
        receipt = json.loads((copy / "receipt.json").read_bytes())
        receipt["timing"]["finished"] = f"2026-01-{day}T00:00:00Z"
        (copy / "receipt.json").write_bytes(resealed(receipt))
    (tmp_path / "digits-base-s42-cccccccc" / "receipt.json").unlink()
    return tmp_path


def test_a_recipe_and_seed_mean_the_run_that_was_finished_last_and_it_is_said(
    call: Call, three: Path
) -> None:
    said: list[str] = []
    newest = "digits-base-s42-aaaaaaaa"
    line = f"digits-base-s42: 3 such runs, taking {newest}, which was finished last"
    assert (find_run("digits-base-s42", three, said.append).name, said) == (newest, [line])
    code, out, err = call("diff", "digits-base-s42", newest, "--runs", str(three))
    assert (code, out.count(newest), err) == (0, 2, f"{line}\n")
    folder = str(three)
    assert call("accept", "digits-base-s42", "--runs", folder)[2].splitlines()[0] == line


def test_what_is_to_be_deleted_is_named_by_one_name_alone(call: Call, three: Path) -> None:
    before = sorted(three.iterdir())
    code, out, err = call("delete", "--yes", "digits-base-s42", "--runs", str(three))
    assert (code, out, err.startswith("error: digits-base-s42: found 3 such runs (")) == (
        2,
        "",
        True,
    )
    for beginning in ("digits", "digits-base-s4"):  # of other seeds, too
        assert call("diff", beginning, "digits-base-s42", "--runs", str(three))[0] == 2
    assert sorted(three.iterdir()) == before


def test_a_renamed_copy_is_listed_by_its_files(
    call: Call, finished_run: Run, tmp_path: Path
) -> None:
    shutil.copytree(finished_run.folder, tmp_path / "tags-other-s7-best", symlinks=True)
    where = ("runs", "--runs", str(tmp_path), "--json")
    wanted = finished_run.summary() | {"run": "tags-other-s7-best"}
    assert json.loads(call(*where)[1]) == [wanted]
    assert (wanted["model"], wanted["recipe"], wanted["seed"]) == ("digits", "base", 42)
    assert json.loads(call(*where, "--model", "digits")[1]) == [wanted]
    assert json.loads(call(*where, "--where", "seed==7")[1]) == []
    assert export(Run(tmp_path / "tags-other-s7-best")).params["recipe"] == "base"


@pytest.mark.slow
def test_a_stopped_run_resumes_where_links_were_copied_as_folders_or_files(
    finished_run: Run, place: Place, tmp_path: Path
) -> None:
    from lockstep.ground.watch import Watch
    from lockstep.run.story import run_experiment
    from lockstep.tests.conftest import experiment

    stopped = run_experiment(experiment(), place, Watch(), until=3)
    assert stopped
    for number, follow in enumerate((True, False)):
        copy = Place(tmp_path / f"copy{number}", place.data)
        shutil.copytree(place.runs, copy.runs, symlinks=not follow)
        if not follow:  # exFAT and some archives keep the text of a link
            for name in ("latest", "best"):
                path = copy.runs / stopped.name / "checkpoints" / name
                path.unlink(missing_ok=True)
                path.write_text("00000003")
        run = run_experiment(experiment(), copy, Watch())
        assert run
        results = finished_run.finished_receipt()["results"]
        assert run.finished_receipt()["results"] == results
