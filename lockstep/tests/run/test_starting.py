"""Fine-tuning: a run starts from the weights of another one, by digest."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lockstep.ground import home
from lockstep.ground.errors import SettingError
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.run import Run
from lockstep.run.story import evaluate_run
from lockstep.tests.projects import NETWORK, Bring, Project
from lockstep.tests.run.test_rehearsal import digest, weights

FROZEN = NETWORK.replace(
    "        self.dropout =", "        self.features.requires_grad_(False)\n        self.dropout ="
)


@pytest.fixture
def project(bring: Bring, base: Run) -> Project:  # the one that was brought last is trained
    return bring(model=FROZEN)


@pytest.fixture
def base(bring: Bring, place: Place) -> Run:
    """A finished run with other weights, of the same network."""
    run = bring(model=NETWORK).train(place, "training.lr=0.05", runs="base")
    shutil.copytree(run.folder, place.runs / run.folder.name)
    return Run(place.runs / run.folder.name)


def settings(base: Run, *more: str) -> tuple[str, ...]:
    return (f"start.weights={base.folder}", 'start.parameters=["features.*"]', *more)


def test_frozen_parts_have_the_bytes_that_they_started_from(
    project: Project, base: Run, place: Place
) -> None:
    run = project.train(place, *settings(base), "training.weight_decay=0.1", "training.average=0.9")
    before, after = weights(base), weights(run)
    assert torch.equal(after["features.1.weight"], before["features.1.weight"])
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])
    assert run.experiment().get("start", {}).get("sha256") == digest(base)


@pytest.mark.slow
def test_a_stopped_run_resumes_when_what_it_started_from_is_gone(
    project: Project, base: Run, place: Place
) -> None:
    whole = project.train(place, *settings(base), runs="whole")
    pinned = settings(base, f"start.sha256={digest(base)}")
    stopped = project.train(place, *pinned, runs="again", until=4)
    assert stopped.identity["digest"] == whole.identity["digest"]
    shutil.rmtree(base.folder)
    assert digest(project.train(place, *pinned, runs="again")) == digest(whole)


@pytest.mark.slow
def test_the_identity_has_the_weights_and_not_their_place(
    project: Project, base: Run, place: Place, tmp_path: Path
) -> None:
    shutil.copy(base.folder / "weights.safetensors", tmp_path / "copy.safetensors")
    elsewhere = (f"start.weights={tmp_path / 'copy.safetensors'}", *settings(base)[1:])
    by_run, by_file = (project.train(place, *words) for words in (settings(base), elsewhere))
    assert by_run.folder == by_file.folder
    tensors = weights(base)
    tensors["features.1.bias"] = tensors["features.1.bias"] + 1
    safetensors.torch.save_file(tensors, tmp_path / "copy.safetensors")
    assert project.train(place, *elsewhere).folder != by_run.folder


@pytest.mark.slow
def test_a_file_in_the_models_folder_is_found_wherever_a_command_is_called(
    project: Project, base: Run, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(base.folder / "weights.safetensors", project.model / "base.safetensors")
    monkeypatch.chdir(tmp_path)
    words = ("start.weights=base.safetensors", settings(base)[1])
    run = project.train(place, *words)
    assert torch.equal(weights(run)["features.1.weight"], weights(base)["features.1.weight"])


@pytest.mark.slow
def test_names_may_differ_at_their_beginning(bring: Bring, base: Run, place: Place) -> None:
    other = FROZEN.replace("self.features", "self.body")
    words = (f"start.weights={base.folder}", 'start.parameters=["body.*"]')
    run = bring(model=other).train(place, *words, 'start.rename={"features.": "body."}')
    assert torch.equal(weights(run)["body.1.weight"], weights(base)["features.1.weight"])


WRONG = {
    'start.parameters=["feature.*"]': "start.parameters: 'feature.*' fits no tensor of the",
    'start.rename={"features.": "body."}': "start.parameters: 'features.*' fits no tensor",
    "start.sha256=" + "0" * 64: "start.weights: .* has sha256 .*, start.sha256 expects 0000000",
    "start.weights=nowhere": "start.weights: nowhere: no such run",
    "start.weights=nowhere.safetensors": "start.weights: nowhere.safetensors: No such file",
    "start.weights=brought@0.1.0": "start.weights: 0.1.0: not a version, expected one such as",
    "start.weights=brought@0.1.0+12345678": "start.weights: team.*: not on this machine",
}  # fmt: skip


def test_weights_that_do_not_fit_are_refused_before_anything_is_made(
    project: Project, base: Run, place: Place
) -> None:
    for setting, message in WRONG.items():
        with pytest.raises(SettingError, match=message):
            project.train(place, *settings(base, setting), runs="wrong")
    assert list(place.runs.with_name("wrong").glob("*")) == []


def test_a_tensor_of_another_shape_is_refused_by_name(
    bring: Bring, base: Run, place: Place
) -> None:
    wider = FROZEN.replace("nn.Linear(64, 16)", "nn.Linear(64, 24)").replace("(16,", "(24,")
    with pytest.raises(
        SettingError, match=r"start: features\.1\.bias is float32 \(16,\), the model"
    ):
        bring(model=wider).train(place, *settings(base))


@pytest.mark.slow
def test_frozen_convolutions_answer_as_they_did_in_training(bring: Bring, place: Place) -> None:
    layers = "nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)"
    frozen = f"*(one.requires_grad_(False) for one in ({layers})), nn.ReLU(), nn.Flatten()"
    network = NETWORK.replace("nn.Flatten(), nn.Linear(64, 16), nn.ReLU()", frozen)
    run = bring(model=network.replace("(16,", "(1024,")).train(place)
    predictor = home.here().module("brought").Predictor.load(run.folder)
    again, before = evaluate_run(run, predictor, place, Watch())
    assert again == before
