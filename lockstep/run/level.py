"""The level of a run: on which machines the same identity has the same bits, and why."""

import ast
from collections.abc import Mapping

import numpy as np
import torch

from lockstep.config.experiment import Training
from lockstep.ground import environment, home, profiles
from lockstep.program import rows_of
from lockstep.records.receipt import Level, level
from lockstep.run.making import Setup
from lockstep.training import evaluation, selftest
from lockstep.training.loop import apply, follow

_ANSWERS = 8  # examples
_ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}  # of the module os


def rehearse(setup: Setup) -> None:
    """Train on one shard and answer a few examples, and restore the state before it."""
    before, shards = setup.training.snapshot(), setup.batches.shards
    batch = setup.batches.at(0, shards - 1)
    for move in setup.training.moves:
        outcome = move.gradient.alone().compute(0, rows_of(batch.target), [batch], False)
        apply(setup.training, move, 0.0, outcome.loss)
    if setup.training.after_step:
        setup.training.after_step(0)
    follow(setup.training)
    answer(setup)
    setup.training.restore(before)


def answer(setup: Setup) -> None:
    """Answer a few examples as an evaluation does, which may run operations of its own."""
    rows = setup.blocks("validation", _ANSWERS)
    evaluation.rehearse(setup.model, rows, setup.blocks("validation"), setup.evaluation)


def doubts(setup: Setup) -> set[str]:
    """Return why the bits of this process may differ on another CPU: a sentence for each reason."""
    settings = setup.experiment.training
    found = set()
    if (settings.profile, settings.device) == ("portable", "cpu"):
        with selftest.Operations() as operations:
            rehearse(setup)
        found |= {f"operation {name}: not verified" for name in operations.unverified()}
        found |= set(selftest.failing())
        found |= {f"{name}: loaded before the profile was set" for name in profiles.early()}
    if (threads := torch.get_num_threads()) > 1:
        found.add(f"threads: the model set {threads}, expected 1")
    setup.workers.meet()  # after a rehearsal, which takes as long as the program's code takes
    if setup.workers.all_gather(np.array([bool(found)], np.float32)).any() and not found:
        found.add("another worker of the run has doubts")
    return found


def environment_reads(files: Mapping[str, bytes]) -> set[str]:
    """Return a reason for each source file of the project that reads environment variables."""
    start = home.here().package.replace(".", "/") + "/"
    return {
        f"{name}: reads environment variables, which are in no identity"
        for name, content in files.items()
        if name.startswith(start) and name.endswith(".py") and _reads_environment(content)
    }


def _reads_environment(content: bytes) -> bool:
    nodes = list(ast.walk(ast.parse(content)))
    modules = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "os"
    }
    taken = {
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "os"
        for alias in node.names
    }
    taken |= {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
    }
    return bool(taken & _ENVIRONMENT)


def promise(settings: Training, reasons: set[str]) -> Level:
    """Return the level of a run with these settings and reasons to lower it, for its receipt."""
    gpu = torch.cuda.get_device_name() if settings.device == "cuda" else None
    cpu = environment.cpu()["model"]
    return level(settings.profile, settings.device, cpu, gpu, sorted(reasons))
