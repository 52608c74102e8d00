"""The loops to measure against: ``python -m lockstep.benchmarks.loops bare cnn 230``.

Under torchrun the bare loop is plain DDP: each of N processes takes an N-th of every batch.
"""

import json
import os
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lockstep.benchmarks import models
from lockstep.data import catalog
from lockstep.data.arrays import open_dataset
from lockstep.data.fetch import fetch
from lockstep.ground.place import Place

BATCH = 128

Batch = tuple[torch.Tensor, torch.Tensor]


RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def bare(pictures: torch.Tensor, labels: torch.Tensor) -> Iterator[Batch]:
    """Yield batches by index_select from normalised data in memory: the fastest loop."""
    inputs = pictures.unsqueeze(1).float().div(255).sub(models.MEAN).div(models.DEVIATION)
    while True:
        order = torch.randperm(len(labels))
        for batch in order.split(BATCH):
            chosen = batch[RANK::WORLD]
            yield inputs.index_select(0, chosen), labels.index_select(0, chosen)


def loader(pictures: torch.Tensor, labels: torch.Tensor) -> Iterator[Batch]:
    """Yield batches of a DataLoader whose Dataset normalises each sample: the usual loop."""
    while True:
        yield from DataLoader(Pictures(pictures, labels), batch_size=BATCH, shuffle=True)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Pictures in memory, each normalised on access."""

    def __init__(self, pictures: torch.Tensor, labels: torch.Tensor):
        self.pictures, self.labels = pictures, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = self.pictures[index].unsqueeze(0).float().div(255)
        return picture.sub(models.MEAN).div(models.DEVIATION), int(self.labels[index])


def main(kind: str, network: str, steps: str) -> None:
    """Train with a plain loop and print the time of each step as JSON."""
    place = Place.default()
    data = open_dataset(
        catalog.entry("fashion-mnist"),
        place.data / "arrays",
        lambda entry: fetch(entry, place.data),
        print,
    ).splits["train"]
    pictures = torch.from_numpy(np.array(data.inputs))
    labels = torch.from_numpy(np.array(data.target))

    torch.manual_seed(0)
    batches = {"bare": bare, "loader": loader}[kind](pictures, labels)
    makers = {"cnn": models.cnn, "mlp": models.mlp, "transformer": models.transformer}
    model: nn.Module = makers[network]()
    if WORLD > 1:
        torch.distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    done: list[float] = []
    for _ in range(int(steps)):
        inputs, targets = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        done.append(time.monotonic())
    if RANK == 0:
        print(json.dumps({"first": 0, "done": done, "threads": torch.get_num_threads()}))
    if WORLD > 1:
        torch.distributed.barrier()
        sys.stdout.flush()
        os._exit(0)  # gloo's threads have been seen to abort a process that ends slowly


if __name__ == "__main__":
    main(*sys.argv[1:])
