"""Makes the bits of a run: data, model and optimizer set up alike in each worker, then trained.

What this module imports in the end is the engine's part of each run's identity. So nothing here
reads recipes, keeps files, reports or answers.
"""

import dataclasses
import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Protocol

import safetensors.torch

from lockstep.config.experiment import Experiment
from lockstep.data.batches import Batches, Blocks
from lockstep.data.dataset import Dataset
from lockstep.ground import home
from lockstep.ground.digests import key_of, readable_json
from lockstep.ground.generators import reseed
from lockstep.training.checkpoint import Snapshot
from lockstep.training.determinism import refuse_broken
from lockstep.training.distributed import Workers
from lockstep.training.evaluation import Answers, Metrics, metrics, probabilities
from lockstep.training.loop import Observer, Training, train
from lockstep.training.optimizer import Optimizer, learning_rate
from lockstep.training.parameters import FlatParameters
from lockstep.training.shards import ShardedGradient
from lockstep.training.signals import stop_signal


class Keeper(Observer, Protocol):
    """Keeps a run's files while it trains. Nothing of it changes the training."""

    def resume(self, steps: int) -> None:
        """Restore the newest good state of a run of so many steps, if there is one."""

    def save(self, snapshot: Callable[[], Snapshot]) -> None:
        """Keep the present state."""

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is due at a step."""

    def restore(self, step: int) -> None:
        """Restore the state of a step that was saved."""

    def close(self) -> None:
        """End all writing."""


class Setup:
    """All that a run trains with, made alike in each of its workers."""

    def __init__(self, experiment: Experiment, dataset: Dataset, workers: Workers):
        settings, parts = experiment.training, home.here().module(experiment.model)
        self.experiment, self.dataset, self.workers = experiment, dataset, workers
        split = dataset.splits["train"].first(experiment.data.limit)
        reseed(key_of(experiment.seed, "fit"))
        self.preprocess = parts.Preprocess.fit(
            experiment.settings, split.inputs, list(dataset.labels)
        )
        reseed(key_of(experiment.seed, "weights"))
        self.model = parts.Model(experiment.settings, len(dataset.labels)).to(settings.device)
        refuse_broken(self.model, settings.device)
        self.training = Training(
            flat := FlatParameters(self.model),
            Optimizer(
                flat,
                name=settings.optimizer,
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
            ),
            clip=settings.clip,
            average=settings.average,
        )
        self.batches = Batches(
            split,
            lambda raw, generator: self.preprocess.augment(self.preprocess(raw), generator),
            batch_size=settings.batch_size,
            shards=settings.shards,
            seed=experiment.seed,
        )
        self.gradient = ShardedGradient(
            self.model,
            flat,
            parts.loss,
            lambda step, shard: reseed(key_of(experiment.seed, "dropout", step, shard)),
            shards=settings.shards,
            workers=workers,
        )
        self.steps = settings.epochs * self.batches.steps_per_epoch

    def answers(self, name: str, stop_signal: Callable[[], int] = lambda: 0) -> Answers:
        """Return what the present weights answer on a split, and what would be right."""
        blocks = Blocks(
            self.dataset.splits[name], self.preprocess, self.experiment.training.evaluation_batch
        )
        classes = len(self.dataset.labels)
        return probabilities(self.model, blocks, classes, self.workers, stop_signal)

    def evaluate(self, stop_signal: Callable[[], int]) -> tuple[float, Metrics]:
        """Return a score, the higher the better, and the validation metrics."""
        found = metrics(*self.answers("validation", stop_signal))
        scores = {"accuracy": found["accuracy"], "f1": found["f1"], "loss": -found["loss"]}
        return scores[self.experiment.training.monitor], found

    def weights(self) -> bytes:
        """Return the content of ``weights.safetensors``, with the order of the model's tensors."""
        tensors = {
            name: tensor.detach().cpu().contiguous().clone()  # tied ones are written twice
            for name, tensor in self.model.state_dict().items()
        }
        content: bytes = safetensors.torch.save(tensors, {"order": json.dumps(list(tensors))})
        return content

    def stored(self) -> bytes:
        """Return the content of ``preprocess.json``: the settings and all that was fitted."""
        config = dataclasses.asdict(self.experiment.settings)
        return readable_json(
            {"model": self.experiment.model, "config": config} | self.preprocess.state()
        )


def train_setup(
    setup: Setup, keeper: Keeper, check: Callable[[], Callable[[int], None]], until: int
) -> bool:
    """Train from the keeper's last state to the end, or ``until`` a step; return if it is the end.

    ``check`` is called when the state is restored, before the first step, and returns what
    inspects the model later. At the end the model has the weights that are to be kept.
    """
    settings, training, batches = setup.experiment.training, setup.training, setup.batches
    with ExitStack() as stack:
        signals = stack.enter_context(stop_signal())  # also while the last checkpoint is written
        stack.callback(keeper.close)
        keeper.resume(setup.steps)
        training.broadcast(setup.workers)
        inspect = check()
        # Closed however training ends: Python does not exit before its loaders do.
        steps = batches.steps(
            training.progress.step, setup.steps, setup.gradient.block, settings.loaders
        )
        train(
            training,
            setup.gradient,
            stack.enter_context(closing(steps)),
            steps=setup.steps,
            until=min(until or setup.steps, setup.steps),
            steps_per_epoch=batches.steps_per_epoch,
            learning_rate=learning_rate(
                peak=settings.lr,
                schedule=settings.schedule,
                warmup=settings.warmup,
                steps=setup.steps,
            ),
            evaluate=setup.evaluate,
            patience=settings.patience,
            observer=keeper,
            save=keeper.save,
            save_is_due=keeper.is_due,
            inspect=inspect,
            stop_signal=signals,
        )
        last = training.progress
        if last.step < setup.steps and not last.stopped_early:
            return False
        keeper.restore(last.best_step or last.step if settings.keep == "best" else last.step)
        training.broadcast(setup.workers)
        return True
