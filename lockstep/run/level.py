"""The level of a run: on which machines the same identity has the same bits, and why."""

import numpy as np
import torch

from lockstep.config.experiment import Training
from lockstep.ground import environment
from lockstep.ground.generators import reseed
from lockstep.records.receipt import Level, level
from lockstep.run.making import Setup
from lockstep.training import selftest
from lockstep.training.loop import update
from lockstep.training.shards import ShardedGradient


def rehearse(setup: Setup) -> None:
    """Train on one shard, from its examples to the update, and restore the state before it."""
    before, shards = setup.training.snapshot(), setup.batches.shards
    inputs, labels = setup.batches.at(0, shards - 1)
    alone = ShardedGradient(
        setup.model, setup.training.flat, setup.gradient.loss_of, lambda *_: reseed(0), shards=1
    )
    loss = alone.compute(0, len(labels), [(inputs, labels)], False).loss
    update(setup.training, 0.0, loss)
    setup.training.restore(before)


def doubts(setup: Setup) -> set[str]:
    """Return why the bits of this process may differ on another CPU: a sentence for each reason."""
    settings = setup.experiment.training
    found = set()
    if (settings.profile, settings.device) == ("portable", "cpu"):
        with selftest.Operations() as operations:
            rehearse(setup)
        found |= {f"operation {name}: not verified" for name in operations.unverified()}
        found |= set(selftest.failing())
    if (threads := torch.get_num_threads()) > 1:
        found.add(f"threads: the model set {threads}, expected 1")
    if setup.workers.all_gather(np.array([bool(found)], np.float32)).any() and not found:
        found.add("another worker of the run has doubts")
    return found


def promise(settings: Training, reasons: set[str]) -> Level:
    """Return the level of a run with these settings and reasons to lower it, for its receipt."""
    gpu = torch.cuda.get_device_name() if settings.device == "cuda" else None
    cpu = environment.cpu()["model"]
    return level(settings.profile, settings.device, cpu, gpu, sorted(reasons))
