"""The self-test of this CPU, and which operations the promise covers."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lockstep.ground import home
from lockstep.ground.generators import reseed
from lockstep.program import Batch
from lockstep.tests.conftest import ROOT, experiment
from lockstep.training import selftest
from lockstep.training.cases import CASES, numbers, whole
from lockstep.training.determinism import enforce
from lockstep.training.optimizer import Fused, by_axes
from lockstep.training.parameters import FlatParameters
from lockstep.training.selftest import Operations, failing
from lockstep.training.shards import ShardedGradient

enforce("portable", "cpu")

DEPENDENT: dict[str, Callable[[torch.Tensor], object]] = {
    "aten.sqrt.default": torch.sqrt,
    "aten.asin.default": torch.asin,
    "aten.acos.default": torch.acos,
    "aten.atan.default": torch.atan,
    "aten.log10.default": torch.log10,
    "aten.log2.default": torch.log2,
    "aten.pow.Tensor_Scalar(0.5)": lambda x: x**0.5,
}


def test_this_cpu_gives_the_golden_bits() -> None:
    assert failing() == []


def test_a_bit_that_differs_is_told_by_the_name_of_the_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other() -> torch.Tensor:
        changed: torch.Tensor = usual()[0]
        changed.view(torch.int32)[0, 0] ^= 1
        return changed

    usual = CASES["matrix products"]
    monkeypatch.setitem(CASES, "matrix products", other)
    (reason,) = failing()
    assert reason.startswith("self-test: matrix products: other bits here")


def test_a_torch_without_golden_values_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "9.9.0+cpu")
    selftest._golden.cache_clear()
    assert failing() == ["self-test: there are no golden values for torch 9.9.0+cpu"]
    monkeypatch.undo()
    selftest._golden.cache_clear()


def test_other_kernels_fail_the_test() -> None:
    code = (
        "from lockstep.ground import profiles; profiles.enter('native');"
        "from lockstep.training.determinism import enforce; enforce('native', 'cpu');"
        "from lockstep.training.selftest import failing; import torch;"
        "print(torch.backends.cpu.get_cpu_capability(), len(failing()))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    capability, failed = done.stdout.split()
    if capability == "AVX2":
        pytest.skip("this CPU has nothing better than AVX2 for the native profile to use")
    assert int(failed) > 0


def network(name: str) -> tuple[nn.Module, torch.Tensor, Callable[..., Any]]:
    """A model in training, inputs for it, and the loss."""
    reseed(1)
    if name == "transformer":
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        model: nn.Module = nn.Sequential(
            nn.Embedding(20, 16), layer, nn.Flatten(), nn.Linear(80, 10)
        )
        cross_entropy = nn.CrossEntropyLoss()
        return (
            model,
            whole(20, 16, 5),
            lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        )
    parts, side = home.here().module(name), {"digits": 8, "apparel": 28}[name]
    model = parts.Model(experiment(f"{name}/base").settings, 10)
    return model, numbers(16, 1, side, side), parts.loss


def two_steps(name: str, rule: str) -> tuple[torch.Tensor, torch.Tensor]:
    model, inputs, loss = network(name)
    flat = FlatParameters(model)
    optimizer = Fused(flat, by_axes(flat.named, 0.01), name=rule, momentum=0.9)
    gradient = ShardedGradient(
        model, flat, loss, lambda step, shard: reseed(10 * step + shard), shards=2
    )
    shards = [Batch(inputs[:8], whole(10, 8)), Batch(inputs[8:], whole(10, 8, salt=1))]
    for step in range(2):
        gradient.compute(step, 16, shards, False)
        optimizer.step(0.01, step)
    return flat.values, flat.row


@pytest.mark.parametrize("rule", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("name", ["digits", "apparel", "transformer"])
def test_training_is_verified_and_the_same_bits_when_watched(name: str, rule: str) -> None:
    with Operations() as operations:
        watched = two_steps(name, rule)
    alone = two_steps(name, rule)
    assert operations.unverified() == []
    assert (torch.equal(watched[0], alone[0]), torch.equal(watched[1], alone[1])) == (True, True)


def test_being_watched_changes_no_case_but_the_gradient_of_a_product() -> None:
    changed = []
    for name, case in CASES.items():
        alone = selftest._digest(case())
        with Operations():
            watched = case()
        changed += [name] if selftest._digest(watched) != alone else []
    assert changed == ["product"]


@pytest.mark.parametrize("name", DEPENDENT)
def test_what_depends_on_the_cpu_is_named(name: str) -> None:
    with Operations() as operations:
        DEPENDENT[name](torch.ones(3))
    assert operations.unverified() == [name]


@pytest.mark.parametrize("rule", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_an_optimizer_that_is_not_fused_is_named(rule: type[torch.optim.Optimizer]) -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    with Operations() as operations:
        rule([weight], foreach=False).step()  # type: ignore[call-arg]
    assert "aten.sqrt.default" in operations.unverified()


def test_an_lstm_is_named_and_a_gru_is_not() -> None:
    found = []
    for layer in (nn.LSTM(4, 4), nn.GRU(4, 4)):
        with Operations() as operations:
            layer(numbers(5, 2, 4))[0].sum().backward()
        found.append(operations.unverified())
    assert found == [
        ["aten.mkldnn_rnn_layer.default", "aten.mkldnn_rnn_layer_backward.default"],
        [],
    ]


def test_the_same_operation_in_a_precision_not_tried_is_named() -> None:
    with Operations() as operations:
        torch.ones(3).exp()
        torch.ones(3, dtype=torch.bfloat16).exp()
    assert "aten.exp.default bfloat16" in operations.unverified()
    assert "aten.exp.default" not in operations.unverified()


class Downsampled(nn.Module):
    """A residual block that halves a picture, as in ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.short = nn.Conv2d(16, 32, 1, stride=2, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.relu_(self.norm(self.first(inputs)) + self.short(inputs))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual block": (Downsampled, (2, 16, 8, 8)),
    "mirrored edges": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (2, 4, 6, 6)),
    "learned slopes": (lambda: nn.PReLU(4), (2, 4, 6, 6)),
    "gates": (lambda: nn.GLU(1), (2, 4, 6)),
    "in three dimensions": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1)),
        (2, 2, 8, 8, 8),
    ),
    "pixels shuffled": (lambda: nn.PixelShuffle(2), (2, 4, 6, 6)),
    "enlarged smoothly": (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), (2, 4, 6, 6)),
    "weights of norm 1": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), (2, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_usual_models_are_verified(name: str) -> None:
    make, shape = LAYERS[name]
    with Operations() as operations:
        make()(numbers(*shape).requires_grad_()).sum().backward()
    assert operations.unverified() == []


def test_the_loss_of_language_models_and_segmentation_is_verified() -> None:
    with Operations() as operations:
        for shape in ((2, 5, 7), (2, 5, 6, 6)):
            scores = numbers(*shape).requires_grad_()
            nn.functional.cross_entropy(scores, whole(5, shape[0], *shape[2:])).backward()
    assert operations.unverified() == []


def test_what_changes_only_how_a_tensor_lies_needs_no_verification() -> None:
    x = numbers(4, 6)
    with Operations() as operations:
        x.as_strided_((3, 2), (6, 1)).unsqueeze_(0).squeeze_().t_()
    assert operations.names == set()


def test_views_and_whole_numbers_need_no_verification() -> None:
    x = numbers(4, 6)
    with Operations() as operations:
        x.t()[1:].reshape(5, 2, 2).unsqueeze(0).expand(3, 5, 2, 2)
        torch.arange(9).bitwise_xor(torch.arange(9)).cumsum(0)
    assert operations.names == set()


@pytest.mark.slow
def test_neither_imports_anything_when_used() -> None:
    """torch's compiler above all, which takes a second and comes with many an innocent call."""
    code = (
        "from lockstep.ground import profiles; profiles.enter('portable');"
        "from lockstep.training.determinism import enforce; enforce('portable', 'cpu');"
        "from lockstep.training.selftest import Operations, failing; import sys, torch;"
        "before = set(sys.modules); failing()\n"
        "with Operations(): torch.ones(3, requires_grad=True).sum().backward()\n"
        "print(set(sys.modules) - before, 'torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set() False\n"
