"""Update rules have the bits of torch.optim's fused ones; schedules are functions of the step."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lockstep.ground.generators import reseed
from lockstep.training.determinism import enforce
from lockstep.training.optimizer import Fused, by_axes, learning_rate
from lockstep.training.parameters import FlatParameters

enforce("portable", "cpu")


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("sgd", torch.optim.SGD, {}),
    ],
)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_equal_those_of_torch(
    name: str, kind: Callable[..., torch.optim.Optimizer], options: dict[str, float], decay: float
) -> None:
    reseed(1)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    flat = FlatParameters(ours)
    momentum = options.get("momentum", 0.0)
    optimizer = Fused(flat, by_axes(flat.named, decay), name=name, momentum=momentum)
    reference = kind(
        [
            {"params": [theirs.weight], "weight_decay": decay},
            {"params": [theirs.bias], "weight_decay": 0.0},
        ],
        lr=0.1,
        fused=True,
        **options,
    )
    for rate in (0.1, 0.05, 0.02):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert mine.grad is not None
            mine.grad.copy_(torch.randn_like(mine))
            other.grad = mine.grad.clone()
        for group in reference.param_groups:
            group["lr"] = rate
        optimizer.step(rate, 0)
        reference.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_a_schedule_rises_then_falls() -> None:
    rate = learning_rate(peak=1.0, schedule="linear", warmup=0.4, steps=10)
    assert [rate(step) for step in range(10)] == [
        pytest.approx(value) for value in (0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)
    ]


def test_a_cosine_halves_in_the_middle() -> None:
    rate = learning_rate(peak=0.3, schedule="cosine", warmup=0.0, steps=100)
    assert [rate(0), rate(50), round(rate(100), 9)] == [0.3, 0.15, 0]


def test_a_constant_rate_stays() -> None:
    rate = learning_rate(peak=0.3, schedule="constant", warmup=0.0, steps=100)
    assert {rate(step) for step in range(100)} == {0.3}
