"""The order is a true permutation of each epoch, evaluated anywhere in constant time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockstep.data.order import Order

seeds = st.integers(0, 2**40)


@settings(deadline=None)
@given(size=st.integers(1, 3000), seed=seeds, epoch=st.integers(0, 10**6))
def test_an_epoch_holds_every_sample_once(size: int, seed: int, epoch: int) -> None:
    assert sorted(Order(size, seed, epoch).at(0, size)) == list(range(size))


@settings(deadline=None)
@given(size=st.integers(1, 3000), seed=seeds, data=st.data())
def test_a_part_equals_the_same_part_of_the_whole(
    size: int, seed: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    order = Order(size, seed, 0)
    assert order.at(start, stop).tolist() == order.at(0, size)[start:stop].tolist()


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = {tuple(Order(50, seed, epoch).at(0, 50)) for seed in range(9) for epoch in range(9)}
    assert len(orders) == 81


def test_a_million_million_samples_need_no_list() -> None:
    size = 10**12
    part = Order(size, 1, 0).at(size - 5000, size)
    assert (len(np.unique(part)), part.min() >= 0, part.max() < size) == (5000, True, True)


@pytest.mark.slow
def test_a_million_of_a_million_million_drawn_anywhere_are_all_different() -> None:
    """Ten thousand stretches of an epoch, with a fresh order for each as after a resume."""
    size, places = 10**12, np.random.default_rng(0).choice(10**10, 10_000, replace=False) * 100
    drawn = np.concatenate([Order(size, 7, 3).at(place, place + 100) for place in places.tolist()])
    assert (len(np.unique(drawn)), drawn.min() >= 0, drawn.max() < size) == (10**6, True, True)


def test_every_place_is_as_likely_for_every_sample() -> None:
    places = np.zeros((16, 16))
    for epoch in range(4000):
        places[np.arange(16), Order(16, 3, epoch).at(0, 16)] += 1
    chi_square = ((places - 250) ** 2 / 250).sum()
    assert chi_square < 320  # 225 degrees of freedom; 0.003 % of fair orders exceed this
