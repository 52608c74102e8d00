"""The gradient of a batch is one fixed tree over its shards."""

import itertools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from lockstep.ground.generators import reseed
from lockstep.program import Batch
from lockstep.training.determinism import enforce
from lockstep.training.distributed import Workers
from lockstep.training.parameters import FlatParameters
from lockstep.training.shards import ShardedGradient

enforce("portable", "cpu")

Seed = Callable[[int, int], None]


def network() -> nn.Sequential:
    reseed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def batch(size: int) -> Batch:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(size, 1, 8, 8, generator=generator)
    return Batch(inputs, torch.randint(3, (size,), generator=generator))


def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def split(whole: Batch, shards: int) -> list[Batch]:
    edges = [len(whole[1]) * i // shards for i in range(shards + 1)]
    return [Batch(whole[0][a:b], whole[1][a:b]) for a, b in itertools.pairwise(edges)]


def computed(
    shards: list[Batch], model: nn.Module | None = None, seed: Seed = lambda step, shard: None
) -> tuple[FlatParameters, float, int]:
    """The first step of a model on these shards: its numbers, the loss, the batch's fingerprint."""
    flat = FlatParameters(model := model or network())
    sharded = ShardedGradient(model, flat, loss_of, seed, shards=len(shards))
    samples = sum(len(labels) for _, labels in shards)
    loss, fingerprint, stops = sharded.compute(0, samples, shards, False)
    assert stops == 0
    return flat, loss, fingerprint


def row_of(shard: Batch, share: float) -> torch.Tensor:
    """What one shard contributes, worked out alone."""
    return computed([shard])[0].sums * share


def test_any_number_of_workers_has_whole_branches_of_one_tree() -> None:
    for shards, count in itertools.product((2, 4, 8, 64), range(2, 65)):
        if count > shards:
            continue
        blocks = [Workers(rank, count).block(shards) for rank in range(count)]
        assert [shard for block in blocks for shard in block] == list(range(shards))
        assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
        for block in blocks:
            branches = Workers(0, count).branches(block)
            assert [shard for branch in branches for shard in branch] == list(block)
            assert all(branch.start % len(branch) == 0 for branch in branches)
            assert {len(branch).bit_count() for branch in branches} == {1}


def test_eight_shards_are_summed_along_the_tree() -> None:
    shards = split(batch(64), 8)
    a, b, c, d, e, f, g, h = (row_of(shard, 1 / 8) for shard in shards)
    wanted = ((a + b) + (c + d)) + ((e + f) + (g + h))
    assert torch.equal(computed(shards)[0].sums, wanted)


def test_shards_of_unequal_size_count_by_their_samples() -> None:
    shards = split(batch(11), 2)  # 5 and 6 samples
    rows = [row_of(shard, len(shard[1]) / 11) for shard in shards]
    torch.testing.assert_close(computed(shards)[0].sums, rows[0] + rows[1])


def test_empty_shards_change_nothing() -> None:
    whole = batch(2)
    nothing = Batch(whole[0][:0], whole[1][:0])
    full = [nothing, *split(whole, 2)[:1], nothing, *split(whole, 2)[1:]]
    few = [full[1], full[3]]
    assert torch.equal(computed(full)[0].sums, computed(few)[0].sums)


def test_one_shard_is_plain_backpropagation() -> None:
    whole, model = batch(16), network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    flat, loss, _ = computed([whole])
    plain = loss_of(model, Batch(whole[0].contiguous(memory_format=torch.channels_last), whole[1]))
    plain.backward()
    weight = model[0].weight.grad
    assert isinstance(weight, torch.Tensor)
    assert loss == plain.item()
    assert torch.equal(flat.gradient[: weight.numel()], weight.permute(0, 2, 3, 1).reshape(-1))


def test_running_statistics_are_the_mean_of_the_shards() -> None:
    shards = split(batch(32), 4)
    model = network()
    computed(shards, model)
    alone = []
    for shard in shards:
        one = network()
        FlatParameters(one)  # the same memory layout, or convolutions take another kernel
        one(shard[0].contiguous(memory_format=torch.channels_last))
        alone.append(one[1].get_buffer("running_mean") / 4)
    assert torch.equal(
        model[1].get_buffer("running_mean"), (alone[0] + alone[1]) + (alone[2] + alone[3])
    )
    assert model[1].num_batches_tracked == 1


def test_the_fingerprint_knows_every_bit_of_the_batch() -> None:
    whole = batch(16)
    changed = whole[0].clone()
    changed.view(torch.int32)[3, 0, 1, 1] ^= 1
    same, other = computed(split(whole, 4))[2], computed(split(Batch(changed, whole[1]), 4))[2]
    assert (same == computed(split(whole, 4))[2], same == other) == (True, False)


def test_every_shard_has_randomness_of_its_own() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
    seeds: list[tuple[int, int]] = []
    computed(split(batch(8), 4), model, lambda step, shard: seeds.append((step, shard)))
    assert seeds == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_whole_number_buffers_advance_once_a_step() -> None:
    model = network()
    computed(split(batch(3), 8), model)  # five of the shards are empty
    assert model[1].num_batches_tracked == 1
