"""How samples are drawn: what each rule promises, and that a position is enough to know a draw."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lockstep.data.batches import Batches
from lockstep.data.dataset import Split
from lockstep.data.sampling import order_of
from lockstep.ground.errors import ModelError, SettingError
from lockstep.program import Balanced, Bucketed, Sampling, Sorted, Weighted

SIZE = 600
LENGTHS = np.random.default_rng(0).integers(1, 400, SIZE)
GROUPS = np.repeat([0, 1, 2], [500, 90, 10])
RULES = {
    "shuffled": None,
    "weighted": Weighted(LENGTHS / 7),
    "balanced": Balanced(GROUPS),
    "by shares": Balanced(GROUPS, {0: 0.2, 1: 0.3, 2: 0.5}),
    "sorted": Sorted(LENGTHS),
    "sorted in windows": Sorted(LENGTHS, window=50),
    "bucketed": Bucketed(LENGTHS, batches=4),
}


def drawn(rule: Sampling | None, epoch: int = 0, seed: int = 1, size: int = SIZE) -> Any:
    return order_of(rule, size, batch_size=16, seed=seed)(epoch).at(0, size)


@pytest.mark.parametrize("name", RULES)
@settings(deadline=None, max_examples=25)
@given(data=st.data(), epoch=st.integers(0, 10**6), seed=st.integers(0, 2**40))
def test_a_part_equals_the_same_part_of_the_whole(
    name: str, data: st.DataObject, epoch: int, seed: int
) -> None:
    start = data.draw(st.integers(0, SIZE))
    stop = data.draw(st.integers(start, SIZE))
    order = order_of(RULES[name], SIZE, batch_size=16, seed=seed)(epoch)
    whole = order.at(0, SIZE)
    assert order.at(start, stop).tolist() == whole[start:stop].tolist()
    assert (str(whole.dtype), whole.min() >= 0, whole.max() < SIZE) == ("int64", True, True)


@pytest.mark.parametrize("name", [name for name in RULES if name != "sorted"])
def test_seeds_and_epochs_have_orders_of_their_own(name: str) -> None:
    orders = {tuple(drawn(RULES[name], epoch, seed)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize("name", ["sorted", "sorted in windows", "bucketed"])
def test_each_sample_is_drawn_once_in_an_epoch(name: str) -> None:
    assert sorted(drawn(RULES[name], 3)) == list(range(SIZE))


def test_samples_are_drawn_as_often_as_their_weights_say() -> None:
    weights = np.array([0, 1, 2, 5, 0, 8, 0])
    order = order_of(Weighted(weights), 7, batch_size=16, seed=3)
    epochs = [np.bincount(order(epoch).at(0, 7), minlength=7) for epoch in range(4000)]
    counts = np.sum(epochs, axis=0)
    assert counts[weights == 0].tolist() == [0, 0, 0]
    expected = 28_000 * weights / 16
    deviation = np.sqrt(expected * (1 - weights / 16))
    assert (np.abs(counts - expected) <= 4 * deviation).all()


def test_draws_of_neighbours_know_nothing_of_each_other() -> None:
    rows = np.concatenate([drawn(Weighted(np.ones(2)), epoch, size=2) for epoch in range(20_000)])
    pairs = np.bincount(rows[:-1] * 2 + rows[1:], minlength=4) / (len(rows) - 1)
    assert pairs == pytest.approx(0.25, abs=0.01)


def test_groups_are_drawn_alike_or_by_their_shares() -> None:
    alike = [np.bincount(GROUPS[drawn(RULES["balanced"], epoch)]).tolist() for epoch in (0, 7)]
    assert alike == [[200, 200, 200]] * 2
    assert np.bincount(GROUPS[drawn(RULES["by shares"])]).tolist() == [120, 180, 300]
    uneven = Balanced(GROUPS[:599], {0: 1, 1: 1, 2: 1})
    assert sorted(np.bincount(GROUPS[drawn(uneven, size=599)])) == [199, 200, 200]


@pytest.mark.parametrize("rule", ["balanced", "by shares"])
def test_within_a_group_no_sample_is_drawn_again_before_all_others_were(rule: str) -> None:
    epochs = [np.bincount(drawn(RULES[rule], epoch), minlength=SIZE) for epoch in range(5)]
    for number in range(1, 6):
        counts = np.sum(epochs[:number], axis=0)
        assert all(np.ptp(counts[group == GROUPS]) <= 1 for group in range(3))


def test_samples_come_in_the_order_of_their_keys() -> None:
    assert (np.diff(LENGTHS[drawn(RULES["sorted"])]) >= 0).all()
    windows = drawn(RULES["sorted in windows"]).reshape(-1, 50)
    plain = drawn(RULES["sorted"]).reshape(-1, 50)
    assert [sorted(rows) for rows in windows] == [sorted(rows) for rows in plain]
    assert (windows != plain).any(axis=1).all()


def test_a_batch_has_samples_of_like_lengths_and_batches_come_in_any_order() -> None:
    batches = drawn(RULES["bucketed"])[: SIZE // 16 * 16].reshape(-1, 16)
    spread = np.ptp(LENGTHS[batches], axis=1).mean()
    shuffled = drawn(None)[: SIZE // 16 * 16].reshape(-1, 16)
    assert spread < np.ptp(LENGTHS[shuffled], axis=1).mean() / 3
    means = LENGTHS[batches].mean(axis=1)
    assert 0.3 < (np.diff(means) > 0).mean() < 0.8


def test_the_last_batch_can_be_left_out() -> None:
    def batches(**options: Any) -> Batches:
        split = Split(np.arange(50), np.arange(50))
        return Batches(
            split, lambda raw, _: torch.from_numpy(raw), batch_size=16, shards=4, seed=1, **options
        )

    whole, cut = batches(), batches(drop_last=True)
    assert (whole.steps_per_epoch, cut.steps_per_epoch) == (4, 3)
    assert [len(cut.ids(step)) for step in range(6)] == [16] * 6
    assert [cut.ids(step).tolist() for step in (0, 2)] == [
        whole.ids(step).tolist() for step in (0, 2)
    ]
    assert cut.ids(3).tolist() == whole.ids(4).tolist()  # the next epoch
    with pytest.raises(SettingError, match=r"data\.drop_last: found 50 training examples"):
        Batches(cut.split, cut.encode, batch_size=51, shards=4, seed=1, drop_last=True)


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (Weighted([1.0] * 599), r"Weighted: found weights of shape \(599,\) and type float64"),
        (Weighted([0.0] * SIZE), "Weighted: found weights that are negative, not finite or all 0"),
        (Weighted([-1.0] * SIZE), "Weighted: found weights that are negative"),
        (Weighted([np.inf] * SIZE), "Weighted: found weights that are negative"),
        (Weighted([np.nan] * SIZE), "Weighted: found NaN among the weights"),
        (Balanced(["a"] * SIZE), "Balanced: found groups of shape"),
        (Balanced(GROUPS, {0: 1, 1: 1}), "Balanced: group 2 has no share, expected one for each"),
        (
            Balanced(GROUPS, {0: 1, 1: 1, 2: 1, 9: 1}),
            "Balanced: group 9 has a share, but no example",
        ),
        (Balanced(GROUPS, {0: 0, 1: 0, 2: 0}), "Balanced: expected finite shares of at least 0"),
        (Balanced(GROUPS, {0: 1, 1: 1, 2: np.inf}), "Balanced: expected finite shares"),
        (Sorted(LENGTHS.reshape(2, -1)), r"Sorted: found keys of shape \(2, 300\)"),
        (Sorted(LENGTHS, window=-3), "Sorted: found window=-3, expected a whole number from 1"),
        (Sorted(LENGTHS, window=2.5), "Sorted: found window=2.5"),  # type: ignore[arg-type]
        (Bucketed(LENGTHS, batches=0), "Bucketed: found batches=0, expected a whole number"),
        ("by length", "sampling: returned str, expected Weighted, Balanced, Sorted, Bucketed"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_by_name(rule: Any, error: str) -> None:
    with pytest.raises(ModelError, match=error):
        order_of(rule, SIZE, batch_size=16, seed=1)
