"""A flipped byte in each file of a run: the same bits, or an error that names the file."""

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lockstep import examples
from lockstep.ground.console import Lines
from lockstep.ground.errors import ModelError, RunError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.run import Run
from lockstep.run.story import run_experiment
from lockstep.tests.conftest import experiment

SAME = (
    "experiment.yaml",
    "identity.json",
    "metrics.jsonl",
    "parts.json",
    "preprocess.json",
    "source.zip",
    "trace.bin",
    "weights.safetensors",
)
OPENED = ["experiment.yaml", "metrics.jsonl", "parts.json", "source.zip", "trace.bin"]
RESULTS = ("receipt.json", "report.html", "preprocess.json", "weights.safetensors")
OF_CHECKPOINTS = [
    f"checkpoints/{step:08d}/{name}"
    for step in (9, 10)
    for name in ("state.json", "tensors.safetensors")
]


def flipped(path: Path, times: int) -> Iterator[int]:
    """Change one bit of a file at places from its first byte to its last, one after the other."""
    content = path.read_bytes()
    for number in range(times):
        place = number * (len(content) - 1) // (times - 1)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        yield place
    path.write_bytes(content)


def stop(run: Run, whole: Path) -> None:
    """Set a run back to before its results, from a copy that was made when it was finished."""
    shutil.rmtree(run.folder)
    shutil.copytree(whole, run.folder, symlinks=True)
    for name in RESULTS:
        (run.folder / name).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OF_CHECKPOINTS, *OPENED])
def test_a_stopped_run_goes_on_to_the_same_bits(
    train_briefly: Callable[..., Run], tmp_path: Path, name: str
) -> None:
    run = train_briefly()
    whole = shutil.copytree(run.folder, tmp_path / "whole", symlinks=True)
    wanted = {file: (whole / file).read_bytes() for file in SAME}
    for place in flipped(whole / name, 3):
        stop(run, whole)
        train_briefly()
        assert {file: (run.folder / file).read_bytes() for file in SAME} == wanted, place


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_damaged_best_checkpoint_costs_only_those_who_end_with_it(
    place: Place, keep: str
) -> None:
    """The best is at step 5, the newest at step 12. Named once, and the result is the same."""
    words = ("training.lr=0", "training.epochs=3", f"training.keep={keep}")
    chosen = experiment("digits/base", *words)
    undisturbed = run_experiment(chosen, replace(place, runs=place.runs / "other"), Watch())
    run, said = run_experiment(chosen, place, Watch(), until=12), io.StringIO()
    assert run and undisturbed
    path = run.folder / "checkpoints" / "00000005" / "tensors.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run_experiment(chosen, place, Lines(said))
    lines = said.getvalue().splitlines()
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert run.finished_receipt()["results"] == undisturbed.finished_receipt()["results"]
    if keep == "last":
        assert warnings == []
        assert f"{run.name}: resumes at step 12 of 15" in lines
    else:
        (warning,) = warnings
        assert str(path) in warning
        assert "the best weights so far, which training.keep=best ends with" in warning
        assert "Training continues from the start, to the same result." in warning
        assert f"{run.name}: starts of 15" in lines


@pytest.mark.slow
def test_a_run_whose_identity_was_altered_is_refused(train_briefly: Callable[..., Run]) -> None:
    run = train_briefly()
    for place in flipped(run.folder / "identity.json", 9):
        with pytest.raises(RunError, match=str(run.folder)):
            train_briefly()
            print(place)


@pytest.mark.parametrize("name", ["preprocess.json", "weights.safetensors"])
def test_results_that_were_altered_are_refused_by_name(
    finished_run: Run, tmp_path: Path, name: str
) -> None:
    copy = shutil.copytree(finished_run.folder, tmp_path / "copy", symlinks=True)
    for _ in flipped(copy / name, 50):
        with pytest.raises(ModelError, match=f"copy/{name}: found sha256"):
            examples.load("digits", copy)
    assert examples.load("digits", copy)
