"""Asked to stop in an evaluation, which may last: saved at once, evaluated when resumed."""

import os
from pathlib import Path

import pytest

from lockstep.ground.errors import Interrupted
from lockstep.ground.place import Place
from lockstep.records.run import Run
from lockstep.tests.projects import Bring, Project
from lockstep.tests.run.test_rehearsal import model

# A signal comes in the middle of a block; only real evaluations have more rows than a rehearsal.
SIGNAL = """
        whole = torch.is_inference_mode_enabled() and len(inputs) > 32
        if whole and os.environ.pop("STOP", ""):
            os.kill(os.getpid(), signal.SIGTERM)
"""
SAME = ("weights.safetensors", "trace.bin", "metrics.jsonl", "identity.json")
SETTINGS = {
    "best": ("training.keep=best",),
    "last": ("training.keep=last",),
    "averaged": ("training.average=0.9",),
}


def stopped(project: Project, place: Place, *settings: str) -> Run:
    """The run that was asked to stop in the first of two evaluations."""
    os.environ["STOP"] = "yes"
    with pytest.raises(Interrupted, match="stopped at step 5 of 10, saved"):
        project.train(place, "training.evaluation_batch=50", *settings)
    (folder,) = place.runs.glob("brought-*")
    return Run(folder)


def files(run: Run) -> dict[str, bytes]:
    assert run.receipt
    return {name: (run.folder / name).read_bytes() for name in SAME}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SETTINGS])
@pytest.mark.parametrize("row", ["a row", "no row"])
def test_it_is_saved_unevaluated_and_resumes_to_the_same_bits(
    bring: Bring, place: Place, kind: str, row: str
) -> None:
    """Also if it is killed between the evaluation's row and the checkpoint after it."""
    project = bring(model="import os\nimport signal\n" + model(forward=SIGNAL))
    settings = ("training.evaluation_batch=50", *SETTINGS[kind])
    undisturbed = project.train(place, *settings, runs="undisturbed")
    run = stopped(project, place, *SETTINGS[kind])
    assert (run.state, run.metrics()) == ("stopped at step 5", [])
    if row == "a row":
        lines = (undisturbed.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        (run.folder / "metrics.jsonl").write_bytes(lines[0])
    assert files(project.train(place, *settings)) == files(undisturbed)


@pytest.mark.slow
def test_a_signal_in_the_final_evaluation_stops_with_a_line_and_loses_nothing(
    bring: Bring, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the large block after the six of two epochs; the last of each has fewer rows."""
    final = """
        whole = torch.is_inference_mode_enabled() and len(inputs) > 32
        if whole and os.environ.get("BLOCKS"):
            os.environ["BLOCKS"] = str(int(os.environ["BLOCKS"]) - 1)
            if os.environ["BLOCKS"] == "0":
                os.kill(os.getpid(), signal.SIGTERM)
"""
    project = bring(model="import os\nimport signal\n" + model(forward=final))
    undisturbed = project.train(place, "training.evaluation_batch=50", runs="undisturbed")
    monkeypatch.setenv("BLOCKS", "7")
    with pytest.raises(Interrupted) as stop:
        project.train(place, "training.evaluation_batch=50")
    assert stop.value.message() == (
        "stopped in the final evaluation; the last checkpoint is kept; run the same command to "
        "resume"
    )
    assert files(project.train(place, "training.evaluation_batch=50")) == files(undisturbed)


@pytest.mark.slow
def test_a_run_that_is_stopped_in_every_evaluation_gets_to_its_end(
    bring: Bring, place: Place
) -> None:
    project = bring(model="import os\nimport signal\n" + model(forward=SIGNAL))
    run = stopped(project, place)
    stopped(project, place)  # makes no progress, and loses none
    undisturbed = project.train(place, "training.evaluation_batch=50", runs="undisturbed")
    assert files(project.train(place, "training.evaluation_batch=50")) == files(undisturbed)
    assert list(Path(run.folder).rglob(".*")) == []
