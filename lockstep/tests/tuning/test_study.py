"""A study has the same trials however many work on it, wherever, and however often it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from lockstep.tests.conftest import copy_of_tracked_files, plain_environment
from lockstep.tests.services import Postgres

pytestmark = pytest.mark.slow

TRIALS = 7
BRIEF = ("training.epochs=4", "data.limit=300", "training.checkpoint_every=3")
Listed = list[dict[str, Any]]


class Bench:
    """A copy of the tree, as a study writes a recipe into it."""

    def __init__(self, folder: Path, data: Path):
        self.folder, self.data = copy_of_tracked_files(folder), data
        self.recipe = folder / "lockstep/examples/models/digits/recipes/tuned.yaml"

    def start(self, runs: Path, *words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "lockstep", "tune", "digits", *BRIEF, "--seed", "3"]
        command += ["--trials", str(TRIALS), "--batch", "2", "--runs", str(runs), "--json", *words]
        return self.process(*command)

    def process(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=plain_environment() | {"LOCKSTEP_DATA": str(self.data)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def tune(self, runs: Path, *words: str) -> Listed:
        out, err = (process := self.start(runs, *words)).communicate()
        assert process.returncode == 0, err
        found: Listed = json.loads(out)
        return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), data_folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def alone(bench: Bench, runs: Path) -> Listed:
    """The trials of a study that one process worked on, undisturbed."""
    return bench.tune(runs)


def test_a_study_begins_with_the_recipe_itself_and_gives_up_what_is_hopeless(
    alone: Listed, runs: Path
) -> None:
    assert [trial["number"] for trial in alone] == list(range(TRIALS))
    base = {"training.lr": 0.004, "training.weight_decay": 0.0, "model.hidden": 64}
    assert alone[0]["settings"] == base | {"model.dropout": 0.2, "model.shift": 1}
    assert {trial["state"] for trial in alone} == {"complete", "pruned"}
    assert len({json.dumps(trial["settings"]) for trial in alone}) == TRIALS
    for trial in alone:
        if trial["state"] == "complete":
            receipt = json.loads((runs / trial["run"] / "receipt.json").read_bytes())
            assert trial["value"] == receipt["results"]["metrics"]["validation"]["accuracy"]
            assert trial["weights_sha256"] == receipt["results"]["weights_sha256"]
        else:
            assert 2 <= trial["epochs"] < 4


def test_the_report_of_a_study_shows_history_importances_and_coordinates(
    alone: Listed, runs: Path
) -> None:
    (page,) = runs.glob("studies/*/report.html")
    text = page.read_text()
    assert text.count("<svg") == 3
    assert text.count("given up after epoch") == sum(t["state"] == "pruned" for t in alone)
    assert ("src=" in text, 'href="http' in text) == (False, False)


def test_two_processes_do_the_same_trials_with_the_same_results(
    bench: Bench, alone: Listed, tmp_path: Path
) -> None:
    assert bench.tune(tmp_path / "runs", "--parallel", "2") == alone


def receipts(runs: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in runs.glob("*/receipt.json")}


def test_a_study_that_is_killed_or_stopped_goes_on_and_trains_nothing_twice(
    bench: Bench, alone: Listed, tmp_path: Path
) -> None:
    runs, before = tmp_path / "runs", dict[str, bytes]()
    process = begun(bench, runs, 1)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, workers)):  # the workers lead sessions of their own
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    before |= receipts(runs)
    (journal,) = runs.glob("studies/*/journal.log")
    with journal.open("ab") as file:
        file.write(b'{"op_code": 5, "wor')  # as a power cut may leave it
    process = begun(bench, runs, 3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, out, "Traceback" in err) == (143, "", False)
    assert err.splitlines()[-1] == "study stopped; run the same command to resume"
    before |= receipts(runs)
    assert bench.tune(runs, "--parallel", "2") == alone
    after = receipts(runs)
    assert {name: after[name] for name in before} == before  # with their times


def begun(bench: Bench, runs: Path, trained: int) -> "subprocess.Popen[str]":
    """A study of two workers that has trained so many trials to their end."""
    process = bench.start(runs, "--parallel", "2")
    while len(receipts(runs)) < trained:
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_several_machines_share_a_study_in_postgresql(
    bench: Bench, alone: Listed, tmp_path: Path, postgres: Postgres
) -> None:
    """Each has a folder of runs of its own; they begin at once, on an empty database."""
    storage = ("--storage", postgres.database())
    machines = [tmp_path / "one", tmp_path / "two"]
    processes = [bench.start(runs, *storage) for runs in machines]
    ended = [(process.communicate(), process.returncode) for process in processes]
    assert [code for _, code in ended] == [0, 0], ended
    assert [json.loads(out) for (out, _), _ in ended] == [alone, alone]
    trained = [set(receipts(runs)) for runs in machines]
    assert (trained[0] & trained[1], bool(trained[0]), bool(trained[1])) == (set(), True, True)


def test_the_best_recipe_trains_to_the_weights_of_its_trial(
    bench: Bench, alone: Listed, tmp_path: Path
) -> None:
    best = max(
        (t for t in alone if t["value"] and t["run"]), key=lambda t: (t["value"], -t["number"])
    )
    first, second, third = bench.recipe.read_text().splitlines()[:3]
    assert first == "# invoke train --model digits --recipe tuned --seed 3"
    assert " cores, test accuracy 0." in second
    assert f", trial {best['number']} of {TRIALS}: validation accuracy " in third
    written = yaml.safe_load(bench.recipe.read_text())
    assert {key: written[key.split(".")[0]][key.split(".")[1]] for key in best["settings"]} == (
        best["settings"]
    )
    words = ("train", "digits/tuned", "--seed", "3", "--runs", str(tmp_path), "--json")
    out, err = bench.process(sys.executable, "-m", "lockstep", *words).communicate()
    assert json.loads(out)["results"]["weights_sha256"] == best["weights_sha256"], err


SECRET = "postgresql://me:geheim@127.0.0.1:9/none"  # pragma: allowlist secret


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--storage", SECRET), "--storage: 127.0.0.1:9/none"),
        (("--storage", "nonsense"), "--storage: nonsense cannot be used ("),
        (("--name", "base"), "is there already and not of this study ("),
        (("training.lr=0.1",), "override: training.lr=0.1: is searched by the recipe's section"),
        (("--trials", "0"), "argument --trials: invalid count value: '0'"),
    ],
)
def test_a_mistake_is_reported_in_one_line_before_anything_is_trained(
    bench: Bench, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    out, err = (process := bench.start(tmp_path / "runs", *words)).communicate()
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (process.returncode, out, told in line, "geheim" in err) == (2, "", True, False)
    assert "Traceback" not in err
    assert list((tmp_path / "runs").glob("*/receipt.json")) == []


def test_a_study_writes_beside_its_runs_only(alone: Listed, runs: Path) -> None:
    assert len(alone) == TRIALS
    assert {path.name for path in runs.iterdir() if not (path / "identity.json").exists()} == {
        "studies"
    }
