"""Batches: a function of (seed, step, shard), whoever assembles them and wherever one begins."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lockstep.data.batches import Batches, Blocks, Encode, Step
from lockstep.data.dataset import Split
from lockstep.ground.errors import DataError

Bytes = list[list[tuple[bytes, bytes]]]  # of each shard of each step


def noisy(raw: NDArray[Any], generator: torch.Generator) -> torch.Tensor:
    """Numbers with noise on them from the generator."""
    return torch.from_numpy(raw).double() + torch.rand(len(raw), generator=generator)


def decoded(raw: NDArray[Any], generator: torch.Generator) -> torch.Tensor:
    """PNG files read one by one, each turned at random."""
    pictures = []
    for content in raw:
        turns = int(torch.randint(4, (), generator=generator))
        picture = Image.open(io.BytesIO(content)).rotate(90 * turns)
        pictures.append(torch.from_numpy(np.array(picture)))
    return torch.stack(pictures) if pictures else torch.empty(0, 8, 8)


def only_labels(raw: NDArray[Any], generator: torch.Generator) -> torch.Tensor:
    return torch.empty(len(raw), 0)


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def numbered(size: int, encode: Encode = noisy, **options: int) -> Batches:
    """Batches of samples that carry their own number as input and as label."""
    chosen: dict[str, Any] = {"batch_size": 20, "shards": 4, "seed": 1} | options
    return Batches(Split(np.arange(size), np.arange(size)), encode, **chosen)


def as_bytes(steps: Iterable[Step]) -> Bytes:
    return [[(x.numpy().tobytes(), y.numpy().tobytes()) for x, y in shards] for _, shards in steps]


@settings(deadline=None)
@given(
    size=st.integers(1, 12_000),
    steps=st.integers(1, 12),
    shards=st.sampled_from([1, 2, 4, 8, 16]),
    seed=st.integers(0, 2**63 - 1),
)
def test_an_epoch_sees_each_sample_once_and_its_shards_are_the_batch_in_order(
    size: int, steps: int, shards: int, seed: int
) -> None:
    batches = numbered(size, batch_size=-(-size // steps), shards=shards, seed=seed)
    for epoch in range(2):
        seen = []
        for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
            pairs = [batches.at(step, shard) for shard in range(shards)]
            assert all((inputs.floor() == labels).all() for inputs, labels in pairs)
            parts = [labels.numpy() for _, labels in pairs]
            sizes = [len(part) for part in parts]
            assert np.concatenate(parts).tolist() == batches.ids(step).tolist()
            assert max(sizes) - min(sizes) <= 1
            seen.append(batches.ids(step))
        assert np.sort(np.concatenate(seen)).tolist() == list(range(size))


@pytest.mark.slow
def test_a_thousand_workers_who_know_nothing_of_each_other_see_each_sample_once() -> None:
    """1,024 workers with a shard each, on 100,003 samples: every one in each epoch, none twice."""
    size, workers = 100_003, 1024

    def seen_by(worker: int) -> list[NDArray[np.int64]]:
        mine = numbered(size, batch_size=50_000, shards=workers, seed=9, encode=only_labels)
        order = range(6) if worker % 2 else (5, 0, 3, 1, 4, 2)  # two epochs of 3; restarts
        parts = {step: mine.at(step, worker)[1].numpy() for step in order}
        return [np.concatenate([parts[step] for step in range(e, e + 3)]) for e in (0, 3)]

    seen = [seen_by(worker) for worker in range(workers)]
    for epoch in range(2):
        together = np.concatenate([parts[epoch] for parts in seen])
        assert np.array_equal(np.sort(together), np.arange(size))


def test_the_order_is_another_one_in_each_epoch() -> None:
    batches = numbered(1000, batch_size=1000)
    assert len({batches.ids(epoch).tobytes() for epoch in range(20)}) == 20


@given(first=st.integers(0, 29))
@settings(deadline=None)
def test_whoever_begins_in_the_middle_gets_the_same_batches(first: int) -> None:
    whole = as_bytes(numbered(190).steps(0, 30, range(4)))
    assert as_bytes(numbered(190).steps(first, 30, range(4))) == whole[first:]


def test_a_batch_is_the_same_whatever_was_asked_before() -> None:
    batches = numbered(190)
    places = [(7, 1), (0, 0), (29, 3), (7, 1), (7, 0), (0, 0)]
    found = [batches.at(*place)[0].tolist() for place in places]
    assert (found[3], found[5]) == (found[0], found[1])
    assert found == [numbered(190).at(*place)[0].tolist() for place in places]


def test_what_is_random_differs_between_steps_shards_and_seeds_and_repeats() -> None:
    def noise(seed: int, step: int, shard: int) -> bytes:
        split = Split(np.zeros(40, np.int64), np.zeros(40, np.int64))
        batches = Batches(split, noisy, batch_size=40, shards=8, seed=seed)
        return bytes(batches.at(step, shard)[0].numpy().tobytes())

    places = [(seed, step, shard) for seed in (0, 1) for step in range(5) for shard in range(8)]
    found = [noise(*place) for place in places]
    assert (len(set(found)), found) == (80, [noise(*place) for place in places])


@pytest.mark.parametrize("kind", ["numbers", "pictures"])
def test_any_number_of_loaders_gives_the_same_bytes(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 8, 8), np.uint8)
    files = np.array([png(picture) for picture in pixels])
    raw, encode = (np.arange(100), noisy) if kind == "numbers" else (files, decoded)

    def assembled(loaders: int) -> Bytes:
        split = Split(raw, np.arange(100))
        batches = Batches(split, encode, batch_size=30, shards=4, seed=5)
        return as_bytes(batches.steps(2, 9, range(4), loaders))

    alone = assembled(0)
    assert (len(alone), {len(step) for step in alone}) == (7, {4})
    assert [assembled(loaders) == alone for loaders in (1, 2, 3)] == [True] * 3


def test_a_bad_example_is_told_in_the_same_words_by_whoever_meets_it() -> None:
    def refusing(raw: NDArray[Any], _: torch.Generator) -> torch.Tensor:
        if 57 in raw:
            raise DataError("example 57: found no picture.")
        return torch.from_numpy(raw)

    def told(loaders: int) -> tuple[int, str]:
        seen = 0
        with pytest.raises(DataError) as error:
            for _, shards in numbered(100, refusing).steps(0, 5, range(4), loaders):
                seen += len(list(shards)) == 4
        return seen, str(error.value)

    place = next(step for step in range(5) if 57 in numbered(100).ids(step))
    assert [told(loaders) for loaders in (0, 1, 3)] == [
        (place, "example 57: found no picture.")
    ] * 3
    assert place > 0


def test_evaluation_sees_a_split_from_its_first_row_to_its_last() -> None:
    split = Split(np.arange(23), np.arange(23) % 3)
    blocks = Blocks(split, torch.from_numpy, 10)
    found = [blocks[number].tolist() for number in range(len(blocks))]
    assert [len(block) for block in found] == [10, 10, 3]
    assert [row for block in found for row in block] == list(range(23))
    assert blocks.target.tolist() == split.target.tolist()
    assert [split.inputs[blocks.rows(number)].tolist() for number in range(3)] == found
