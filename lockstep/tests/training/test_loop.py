"""What a step keeps besides the weights, and what an evaluation may answer."""

import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lockstep.ground.place import Place
from lockstep.program import Update
from lockstep.tests.conftest import mostly_slow
from lockstep.tests.projects import Bring
from lockstep.tests.run.test_rehearsal import model, weights
from lockstep.training.loop import Training, apply, follow
from lockstep.training.parameters import FlatParameters
from lockstep.training.updates import Plan, Rule


def decay(step: int) -> float:
    return min(0.2, step / (step + 10))


def of_torch(average: torch.Tensor, now: torch.Tensor, step: torch.Tensor | int) -> torch.Tensor:
    if not average.is_floating_point():
        return now
    return average.lerp(now, 1 - decay(int(step)))


def by_sgd(network: nn.Module, average: float) -> Training:
    plan = Plan(network, [Update(lambda *_: None)], ())
    flat = FlatParameters(network, plan.key)
    rule = Rule("sgd", 0.1, decay=0.0, momentum=0.9)
    moves = plan.moves(flat, rule, None, lambda *_: None, shards=1)
    return Training(flat, moves, average=average)


def take(training: Training) -> None:
    """Take a step by the gradient that stands in the model."""
    apply(training, training.moves[0], 0.1, 0.0)
    follow(training)


def test_batch_statistics_are_averaged_with_the_weights_as_torch_does() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = AveragedModel(network, avg_fn=of_torch, use_buffers=True)
    average.update_parameters(network)  # the first time it copies
    training = by_sgd(network, average=0.2)
    flat = training.flat
    for _ in range(4):
        flat.gradient.copy_(torch.randn(flat.gradient.shape))
        flat.buffers.copy_(torch.rand(flat.buffers.shape))
        take(training)
        training.progress.step += 1
        average.update_parameters(network)
    last = {name: value.clone() for name, value in network.state_dict().items()}
    with training.kept_weights():
        for name, value in average.module.state_dict().items():
            torch.testing.assert_close(network.state_dict()[name], value)
    assert all(torch.equal(value, last[name]) for name, value in network.state_dict().items())


def test_a_constant_buffer_keeps_its_bits_in_an_average_also_if_it_is_infinite() -> None:
    network = nn.Linear(3, 4)
    network.register_buffer("mask", torch.tensor([0.1, -math.inf, math.nan]))
    training = by_sgd(network, average=0.5)
    for _ in range(3):
        take(training)
    mask = torch.tensor([0.1, -math.inf, math.nan]).view(torch.int32)
    with training.kept_weights():
        assert torch.equal(network.get_buffer("mask").view(torch.int32), mask)


@pytest.mark.slow
def test_averaged_batch_statistics_are_those_of_the_kept_weights(
    bring: Bring, place: Place
) -> None:
    norm = model().replace("nn.ReLU())\n", "nn.ReLU(), nn.BatchNorm1d(16))\n")
    project, settings = bring(model=norm), ("training.shards=2",)
    runs = [project.train(place, *settings, f"training.average={decay}") for decay in ("0", "0.9")]
    last, kept = (weights(run)["features.3.running_mean"] for run in runs)
    assert not torch.equal(last, kept)


@pytest.mark.slow
@pytest.mark.parametrize("keep", mostly_slow(["best", "last"]))
@pytest.mark.parametrize("monitor", mostly_slow(["accuracy", "loss"]))
def test_a_first_validation_without_a_number_is_worse_than_any(
    bring: Bring, place: Place, monkeypatch: pytest.MonkeyPatch, keep: str, monitor: str
) -> None:
    """Only real evaluations are in inference mode."""
    forward = "        whole = torch.is_inference_mode_enabled() and len(inputs) > 32\n"
    forward += "        if whole and os.environ.pop('FIRST', ''):\n"
    forward += "            inputs = inputs * torch.nan\n"
    project = bring(model="import os\n" + model(forward=forward))
    monkeypatch.setenv("FIRST", "yes")
    run = project.train(place, f"training.keep={keep}", f"training.monitor={monitor}")
    assert run.finished_receipt()["results"]["kept_step"] == 10
    accuracies = [row["validation"]["accuracy"] or 0 for row in run.metrics()]
    assert [accuracy > 0 for accuracy in accuracies] == [False, True]
