"""bf16: what torch's autocast computes, with weights in float32, and a level that says so."""

import torch
from torch import nn
from torch.nn import functional as F

from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.program import Batch, Losses
from lockstep.run.keeping import open_data
from lockstep.run.level import doubts
from lockstep.run.making import Setup
from lockstep.tests.conftest import command, experiment
from lockstep.training.determinism import enforce
from lockstep.training.distributed import ALONE
from lockstep.training.precision import computed_in

enforce("portable", "cpu")

BF16 = "training.precision=bf16"


def mean_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(model(batch.inputs), batch.target)


def inputs() -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.randn(16, 6, generator=generator), torch.arange(16) % 3)


def gradient(model: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def test_bf16_is_torchs_autocast_over_weights_in_float32() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    ours = computed_in("bf16", "cpu", mean_loss)(model, inputs())
    with torch.autocast("cpu", torch.bfloat16):
        theirs = mean_loss(model, inputs())
    usual = mean_loss(model, inputs())
    assert torch.equal(ours, theirs)
    assert torch.equal(gradient(model, ours), gradient(model, theirs))
    assert (ours.dtype, torch.equal(ours, usual)) == (torch.float32, False)


def test_what_a_loss_returns_is_float32() -> None:
    each = torch.ones(4, dtype=torch.bfloat16)
    kinds = [
        computed_in("bf16", "cpu", lambda *_: each)(None, inputs()).dtype,
        *(
            one.dtype
            for one in computed_in("bf16", "cpu", lambda *_: Losses(each, each))(0, inputs())
        ),
    ]
    assert kinds == [torch.float32] * 3


def test_the_identity_has_a_precision_only_if_it_is_not_the_usual_one() -> None:
    usual, same, other = experiment(), experiment("digits/base", "training.precision=float32"), BF16
    assert "precision" not in usual.as_dict()["training"]
    assert usual.as_dict(bits_only=True) == same.as_dict(bits_only=True)
    assert (
        experiment("digits/base", other).as_dict(bits_only=True)["training"]["precision"] == "bf16"
    )


def test_a_precision_that_there_is_not_is_refused_in_one_line() -> None:
    done = command("train", "digits/base", "--seed=1", "training.precision=float64")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "training.precision: found 'float64', expected str out of float32, bf16" in done.stderr


def test_a_run_in_bf16_names_the_operations_that_lower_its_level(place: Place) -> None:
    one = experiment("digits/base", BF16)
    setup = Setup(one, open_data("digits", place, Watch()), ALONE)
    assert {weight.dtype for weight in setup.model.parameters()} == {torch.float32}
    reasons = doubts(setup)
    assert "operation aten.addmm.default bfloat16: not verified" in reasons
    assert all("bfloat16" in reason for reason in reasons)
