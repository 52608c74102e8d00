"""Updates, groups, losses by example and of the whole batch: what plain torch computes."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lockstep.ground.errors import ModelError
from lockstep.ground.generators import reseed
from lockstep.program import Batch, Group, Losses, Update
from lockstep.training.determinism import enforce
from lockstep.training.loop import Training, advance, apply
from lockstep.training.optimizer import Own, factors, rate_by_factor
from lockstep.training.parameters import FlatParameters
from lockstep.training.updates import Plan, Rule

enforce("portable", "cpu")

ADAM = Rule("adam", 0.01, decay=0.1, momentum=0.9)


def training(
    model: nn.Module,
    updates: Sequence[Update],
    groups: Sequence[Group] = (),
    shards: int = 1,
    rule: Rule = ADAM,
    make: Callable[[list[dict[str, Any]]], Any] | None = None,
    **options: Any,
) -> Training:
    plan = Plan(model, updates, groups)
    flat = FlatParameters(model, plan.key)

    def seed(update: int, step: int, shard: int) -> None:
        reseed(update + 10 * step + 1000 * shard)

    return Training(flat, plan.moves(flat, rule, make, seed, shards=shards), **options)


def cut(whole: Batch, shards: int) -> list[Batch]:
    edges = [len(whole.target) * i // shards for i in range(shards + 1)]
    return [Batch(whole.inputs[a:b], whole.target[a:b]) for a, b in itertools.pairwise(edges)]


def take(one: Training, batches: Sequence[Batch], shards: int = 1) -> list[float]:
    losses = []
    for batch in batches:
        outcome = advance(one, (len(batch.target), cut(batch, shards)), ADAM.rate)
        one.progress.step += 1
        losses.append(outcome.loss)
    return losses


def batches(count: int, size: int = 16, width: int = 6) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    return [
        Batch(
            torch.randn(size, width, generator=generator),
            torch.randint(3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def network(*sizes: int) -> nn.Sequential:
    reseed(1)
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.Tanh())))


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


class Adversaries(nn.Module):
    """A generator and a critic, with the losses that they have of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = network(6, 8, 6), network(6, 8, 1)

    def critics(self, inputs: torch.Tensor) -> torch.Tensor:
        made = self.generator(torch.zeros_like(inputs)).detach()
        mixed = (inputs * 0.5 + made * 0.5).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(mixed).sum(), mixed, create_graph=True)
        penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
        loss: torch.Tensor = self.critic(made).mean() - self.critic(inputs).mean() + penalty
        return loss

    def generators(self, inputs: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = -self.critic(self.generator(torch.zeros_like(inputs))).mean()
        return loss


ADVERSARIES = [
    Update(lambda model, batch: model.critics(batch.inputs), "critic.*"),
    Update(lambda model, batch: model.generators(batch.inputs), "generator.*", every=2, rate=0.5),
]


def test_two_adversaries_with_a_penalty_of_gradients_train_as_in_plain_torch() -> None:
    ours, theirs = Adversaries(), Adversaries()
    take(training(ours, ADVERSARIES), batches(5))

    def adam(module: nn.Module, rate: float) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": [p for p in module.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in module.parameters() if p.dim() < 2]},
        ]
        return torch.optim.Adam(groups, lr=rate, fused=True)

    critic, generator = adam(theirs.critic, 0.01), adam(theirs.generator, 0.005)
    for step, batch in enumerate(batches(5)):
        pairs = ((critic, theirs.critics), (generator, theirs.generators))
        for optimizer, loss in pairs[: 1 if step % 2 else 2]:
            theirs.zero_grad()
            loss(batch.inputs).backward()
            optimizer.step()
    assert_equal(values(ours), values(theirs))


def test_losses_by_example_are_the_weighted_mean_of_the_whole_batch() -> None:
    weights = torch.tensor([1.0, 5.0, 0.5])

    def loss(model: nn.Module, batch: Batch) -> Losses:
        each = F.cross_entropy(model(batch.inputs), batch.target, reduction="none")
        return Losses(each, weights[batch.target])

    whole = batches(1, 21)[0]
    rows = {}
    for shards in (1, 4, 8):
        model = network(6, 3)
        moves = training(model, [Update(loss)], shards=shards)
        gradient = moves.moves[0].gradient
        value = gradient.compute(0, 21, cut(whole, shards), False).loss
        rows[shards] = (value, moves.flat.gradient.clone())
    plain = network(6, 3)
    FlatParameters(plain)
    expected = F.cross_entropy(plain(whole.inputs), whole.target, weights)
    expected.backward()
    flat = torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None])
    for value, row in rows.values():
        torch.testing.assert_close((value, row), (expected.item(), flat))


def test_a_mean_over_tokens_is_that_of_the_batch() -> None:
    sums, counts = torch.tensor([6.0, 1.0, 0.0]), torch.tensor([3.0, 1.0, 0.0])
    losses = Losses.of_sums(sums, counts)
    assert float((losses.values * losses.weights).sum() / losses.weights.sum()) == 7 / 4


class Pairs(nn.Module):
    """Representations with dropout and batch statistics, and a scale that only the loss uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*network(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
        self.scale = nn.Parameter(torch.ones(()))


def represent(model: Pairs, batch: Batch) -> torch.Tensor:
    return torch.stack([model.body(batch.inputs), model.body(batch.inputs + 0.1)], 1)


def contrast(model: Pairs, batch: Batch) -> torch.Tensor:
    one, two = F.normalize(batch.inputs, dim=-1).unbind(1)
    scores = model.scale * one @ two.T
    return F.cross_entropy(scores, torch.arange(len(one)))


def test_a_loss_of_the_whole_batch_has_the_gradient_of_the_whole_batch() -> None:
    whole, shards = batches(1, 22)[0], 4
    ours, theirs = Pairs(), Pairs()
    one = training(ours, [Update(contrast, represent=represent)], shards=shards)
    value = one.moves[0].gradient.compute(0, 22, cut(whole, shards), False).loss
    FlatParameters(theirs, Plan(theirs, [Update(contrast)], ()).key)
    parts = []
    for shard, part in enumerate(cut(whole, shards)):
        reseed(1000 * shard)
        parts.append(represent(theirs, part))
    expected = contrast(theirs, Batch(torch.cat(parts), whole.target))
    expected.backward()
    assert value == expected.item()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    assert ours.body[2].num_batches_tracked == 2


def test_groups_have_their_own_rate_decay_and_start() -> None:
    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(model(batch.inputs), batch.target)

    ours, theirs = network(6, 5, 3), network(6, 5, 3)
    groups = [Group("0.*", rate=0.1, decay=0.0, start=2), Group(("2.*",), decay=0.3)]
    one = training(ours, [Update(loss)], groups)
    frozen = values(ours)["0.weight"]
    take(one, batches(2))
    assert torch.equal(values(ours)["0.weight"], frozen)
    take(one, batches(3))

    def adam(layer: nn.Module, rate: float, decay: float) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": [layer.weight], "weight_decay": decay},
            {"params": [layer.bias]},
        ]
        return torch.optim.Adam(groups, lr=rate, fused=True)

    first, second = adam(theirs[0], 0.001, 0.0), adam(theirs[2], 0.01, 0.3)
    for step, batch in enumerate([*batches(2), *batches(3)]):
        theirs.zero_grad()
        loss(theirs, batch).backward()
        second.step()
        if step >= 2:
            first.step()
    assert_equal(values(ours), values(theirs))


class Lion(torch.optim.Optimizer):
    """An optimizer that torch does not have (Chen et al., 2023), with a plain counter."""

    def __init__(self, groups: list[dict[str, Any]]):
        super().__init__(groups, {"lr": 0.01, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                state["steps"] = state.get("steps", 0) + 1
                p.sub_((momentum * 0.9 + p.grad * 0.1).sign() * group["lr"] / state["steps"])
                momentum.lerp_(p.grad, 0.01)


class Counting(torch.optim.Optimizer):
    """An optimizer that keeps a number and a tensor in its groups, and draws noise."""

    def __init__(self, groups: list[dict[str, Any]]):
        super().__init__(groups, {"lr": 0.01, "k": 0, "sum": torch.zeros(())})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["k"] += 1
            group["sum"] = group["sum"] + group["k"]
            for p in group["params"]:
                p.sub_(p.grad * group["lr"] / group["k"] + torch.randn(p.shape) / group["sum"])


def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(model(batch.inputs), batch.target)


OPTIMIZERS: list[Callable[[list[dict[str, Any]]], Any]] = [
    Lion,
    Counting,
    torch.optim.RMSprop,
    lambda groups: torch.optim.SGD(groups, momentum=0.9, dampening=0.5),
    lambda groups: torch.optim.AdamW(groups, amsgrad=True),
    torch.optim.Adagrad,
    torch.optim.NAdam,
]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_any_optimizer_resumes_from_a_snapshot_with_the_same_bits(
    make: Callable[[list[dict[str, Any]]], Any],
) -> None:
    whole, first, second = (training(network(6, 5, 3), [Update(loss_of)], make=make) for _ in "abc")
    take(whole, batches(6))
    take(first, batches(6)[:3])
    second.restore(first.snapshot())
    take(second, batches(6)[3:])
    assert torch.equal(whole.flat.values, second.flat.values)


def test_an_optimizer_draws_the_same_numbers_whatever_was_drawn_before() -> None:
    values = []
    for seed in (1, 2):
        one = training(network(6, 3), [Update(loss_of)], make=Counting)
        one.moves[0].gradient.compute(0, 16, batches(1), False)
        torch.manual_seed(seed)  # as two workers that have computed other shards
        apply(one, one.moves[0], 0.1, 0.0)
        values.append(one.flat.values)
    assert torch.equal(*values)


def test_torchs_own_class_steps_as_in_plain_torch() -> None:
    ours, theirs = network(6, 3), network(6, 3)
    take(training(ours, [Update(loss_of)], make=torch.optim.RMSprop), batches(3))
    groups: list[dict[str, Any]] = [
        {"params": [theirs[0].weight], "weight_decay": 0.1},
        {"params": [theirs[0].bias]},
    ]
    optimizer = torch.optim.RMSprop(groups, lr=0.01)
    for batch in batches(3):
        optimizer.zero_grad()
        loss_of(theirs, batch).backward()
        optimizer.step()
    assert_equal(values(ours), values(theirs))


def test_what_follows_a_step_moves_frozen_parameters_and_is_in_each_snapshot() -> None:
    model = nn.ModuleDict({"student": network(6, 3), "teacher": network(6, 3)})
    model["teacher"].requires_grad_(False)

    def follow(step: int) -> None:
        with torch.no_grad():
            for slow, fast in zip(
                model["teacher"].parameters(), model["student"].parameters(), strict=True
            ):
                slow.lerp_(fast, 0.5)

    one = training(
        model, [Update(lambda m, batch: loss_of(m["student"], batch))], after_step=follow
    )
    take(one, batches(2))
    before = one.snapshot()
    teacher = model.get_parameter("teacher.0.weight").clone()
    take(one, batches(1))
    assert not torch.equal(model.get_parameter("teacher.0.weight"), teacher)
    one.restore(before)
    assert torch.equal(model.get_parameter("teacher.0.weight"), teacher)


@pytest.mark.parametrize(
    ("updates", "groups", "message"),
    [
        ([Update(loss_of, "1.*")], [], "updates[0]: '1.*' fits no trained parameter."),
        ([Update(loss_of, "0.*")], [], "2.weight: no update moves it; name it in one of `updates`"),
        ([Update(loss_of, every=2)], [], "updates: none happens in each step, expected one with"),
        (loss_of, [], "updates: returned <function loss_of"),
        ([Update(loss_of)], [Group("none")], "groups[0]: 'none' fits no trained parameter."),
    ],
)
def test_a_mistake_in_updates_is_one_line(
    updates: Any, groups: Sequence[Group], message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        Plan(network(6, 5, 3), updates, groups)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda *_: 1.0, "loss: returned float, expected a scalar"),
        (lambda m, b: m(b.inputs), "loss: returned Tensor of shape (16, 3), expected a scalar"),
        (lambda m, b: m(b.inputs)[:5, 0], "loss: found values of shape (5,)"),
    ],
)
def test_a_loss_of_another_kind_is_one_line(loss: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        take(training(network(6, 3), [Update(loss)]), batches(1))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda groups: torch.optim.LBFGS([p for group in groups for p in group["params"]]),
            "optimizer: LBFGS computes the loss again within a step",
        ),
        (lambda groups: groups, "optimizer: returned list, expected a torch.optim.Optimizer"),
        (lambda groups: torch.optim.SGD(groups[:1]), "optimizer: 0.bias is in none of its groups"),
    ],
)
def test_an_optimizer_that_cannot_be_used_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        take(training(network(6, 3), [Update(loss_of)], make=make), batches(1))
    assert str(caught.value).startswith(message)


def test_what_an_optimizer_keeps_in_lists_cannot_be_saved() -> None:
    one = training(network(6, 3), [Update(loss_of)], make=Lion)
    optimizer = one.moves[0].optimizer
    assert isinstance(optimizer, Own)
    take(one, batches(1))
    optimizer.inner.state[one.flat.named["0.weight"]]["history"] = []
    with pytest.raises(ModelError, match="Lion keeps state\\['history'\\], which no checkpoint"):
        one.snapshot()


def test_schedules_of_torch_and_of_ones_own_are_functions_of_the_step() -> None:
    cycle = factors(
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5), steps=5
    )
    rate = rate_by_factor(0.3, cycle)
    assert [rate(step) for step in (0, 1, 2, 4, 3)] == [0.3, 0.3, 0.15, 0.075, 0.15]
    with pytest.raises(ModelError, match="schedule: returned nan for step 0, expected a factor"):
        rate_by_factor(0.3, lambda _: float("nan"))(0)


def test_gradients_are_clipped_by_value_and_by_group() -> None:
    sgd = Rule("sgd", 0.01, decay=0.0, momentum=0.0)
    by_value = training(network(6, 3), [Update(loss_of)], rule=sgd, clip_value=0.01)
    take(by_value, batches(1))
    assert float(by_value.flat.gradient.abs().max()) == pytest.approx(0.01)
    by_group = training(network(6, 5, 3), [Update(loss_of)], [Group("0.*", clip=0.01)], rule=sgd)
    take(by_group, batches(1))
    first, rest = by_group.flat.gradient[:35], by_group.flat.gradient[35:]
    assert float(first.norm()) == pytest.approx(0.01)
    assert float(rest.norm()) > 0.01
