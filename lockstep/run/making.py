"""Makes the bits of a run: data, model and optimizer set up alike in each worker, then trained.

What this module imports in the end is the engine's part of each run's identity. So nothing here
reads recipes, keeps files, reports or answers.
"""

import dataclasses
import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Protocol

import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from lockstep.answers.output import output_of
from lockstep.config.budgets import refuse_unknown
from lockstep.config.experiment import Experiment
from lockstep.data.batches import Batches, Blocks
from lockstep.data.dataset import Dataset, Split
from lockstep.ground import home
from lockstep.ground.digests import key_of, readable_json
from lockstep.ground.errors import ModelError, SettingError
from lockstep.ground.generators import reseed
from lockstep.program import Balanced, Sampling, Sorted, Update
from lockstep.training import evaluation
from lockstep.training.checkpoint import Snapshot
from lockstep.training.determinism import refuse_broken
from lockstep.training.distributed import ALONE, Workers
from lockstep.training.loop import Observer, Training, train
from lockstep.training.metrics import DEFAULTS, Metrics, figures
from lockstep.training.optimizer import learning_rate, rate_by_factor
from lockstep.training.parameters import FlatParameters
from lockstep.training.signals import stop_signal
from lockstep.training.start import fill
from lockstep.training.updates import Plan, Rule

if TYPE_CHECKING:
    from lockstep.model import Parts

_STEP = ("updates", "groups", "optimizer", "after_step")  # what a program may say of its step
_FEW = 32  # rows, in a rehearsal of the evaluation


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

    def __init__(
        self, experiment: Experiment, dataset: Dataset, workers: Workers, weights: bytes = b""
    ):
        settings, parts = experiment.training, home.here().module(experiment.model)
        self.experiment, self.dataset, self.workers = experiment, dataset, workers
        split = dataset.splits["train"].first(experiment.data.limit)
        reseed(key_of(experiment.seed, "fit"))
        with home.readable_errors("Preprocess.fit", _shaped(split.inputs)):
            self.preprocess = parts.Preprocess.fit(
                experiment.settings, split.inputs, list(dataset.labels)
            )
        # The twin comes first: code that keeps the model which was made last keeps the one in use.
        twin = self._model(parts, weights).state_dict()
        self.model = self._model(parts, weights)
        refuse_broken(self.model, settings.device)
        _refuse_different(self.model.state_dict(), twin)
        del twin
        with home.readable_errors("updates, groups or optimizer"):
            self.training = self._training(parts)
        reseed(key_of(experiment.seed, "sampling"))
        with home.readable_errors("sampling"):
            self.batches = Batches(
                split,
                self._encode,
                batch_size=settings.batch_size,
                shards=settings.shards,
                seed=experiment.seed,
                sampling=self._sampling(parts, split),
                drop_last=experiment.data.drop_last,
            )
        self.steps = settings.epochs * self.batches.steps_per_epoch
        with home.readable_errors("schedule"):
            self.learning_rate = self._schedule(parts)
        self.evaluation = evaluation_of(parts, experiment.settings, dataset)

    def _model(self, parts: Any, weights: bytes) -> nn.Module:
        """Make the model as it is before the first step."""
        experiment, classes = self.experiment, len(self.dataset.labels)
        reseed(key_of(experiment.seed, "weights"))
        with home.readable_errors("Model", f" for {classes} outputs"):
            model: nn.Module = parts.Model(experiment.settings, classes)
            model = model.to(experiment.training.device)
        if weights:
            fill(model, weights, experiment.start.parameters, experiment.start.rename)
        return model

    def _encode(self, raw: NDArray[Any], generator: torch.Generator) -> Any:
        inputs = self.preprocess(raw)
        augment = getattr(self.preprocess, "augment", None)
        return augment(inputs, generator) if augment else inputs

    def _sampling(self, parts: Any, split: Split) -> Sampling | None:
        """Return what the program says of the examples' order, or else the recipe."""
        choice, own = self.experiment.data.sampling, getattr(parts, "sampling", None)
        if own and choice != "shuffled":
            raise SettingError(
                f"data.sampling: found {choice}, expected shuffled with the model's own function "
                "`sampling`; leave one of them out."
            )
        if own:
            rule: Sampling | None = own(self.experiment.settings, split.inputs, split.target)
            return rule
        if choice == "sequential":
            return Sorted(range(len(split)))
        if choice == "balanced" and self.dataset.kind != "class":
            raise SettingError(
                f"data.sampling: found balanced for targets of kind {self.dataset.kind}, expected "
                "classes; write the model's own function `sampling` with Balanced of its groups."
            )
        return Balanced(split.target) if choice == "balanced" else None

    def _training(self, parts: Any) -> Training:
        """Lay out the model's numbers, with the updates that the program says, or its one loss."""
        config, settings = self.experiment.settings, self.experiment.training
        said: list[Any] = [getattr(parts, name, None) for name in _STEP]
        updates, groups, optimizer, after_step = said
        seed = self.experiment.seed
        plan = Plan(
            self.model,
            updates(config) if updates else [Update(parts.loss)],
            groups(config) if groups else (),
        )
        flat = FlatParameters(self.model, plan.key)

        def reseed_shard(update: int, step: int, shard: int) -> None:
            others = (update,) if update else ()
            reseed(key_of(seed, "dropout", step, shard, *others))

        def follow(step: int) -> None:
            reseed(key_of(seed, "after", step))
            with torch.no_grad():
                after_step(self.model, step)

        return Training(
            flat,
            plan.moves(
                flat,
                Rule(settings.optimizer, settings.lr, settings.weight_decay, settings.momentum),
                functools.partial(optimizer, config) if optimizer else None,
                reseed_shard,
                shards=settings.shards,
                workers=self.workers,
                precision=settings.precision,
            ),
            clip=settings.clip,
            clip_value=settings.clip_value,
            average=settings.average,
            after_step=follow if after_step else None,
        )

    def _schedule(self, parts: Any) -> Callable[[int], float]:
        settings, own = self.experiment.training, getattr(parts, "schedule", None)
        if own:
            words = [self.experiment.settings, self.steps, settings.epochs]
            taken = len(inspect.signature(own).parameters)  # epochs only where they are asked for
            return rate_by_factor(settings.lr, own(*words[:taken]))
        return learning_rate(
            peak=settings.lr,
            schedule=settings.schedule,
            warmup=settings.warmup,
            steps=self.steps,
        )

    def measure(
        self, name: str, stop_signal: Callable[[], int] = lambda: 0
    ) -> evaluation.Measurement:
        """Return what the present weights are worth on a split."""
        blocks = self.blocks(name)
        return evaluation.measure(self.model, blocks, self.evaluation, self.workers, stop_signal)

    def blocks(self, name: str, rows: int = 0) -> Blocks:
        """Return a split as it is evaluated, or its first rows."""
        split = self.dataset.splits[name].first(rows)
        return Blocks(split, self.preprocess, self.experiment.training.evaluation_batch)

    def rehearse_evaluation(self) -> None:
        """Try the metrics on a few validation rows, and learn their names.

        Raises ModelError for what is no metric, for an unknown training.monitor, and for a budget
        of a metric that there is not.
        """
        few, whole = self.blocks("validation", _FEW), self.blocks("validation")
        names = evaluation.rehearse(self.model, few, whole, self.evaluation)
        self.evaluation = dataclasses.replace(self.evaluation, names=tuple(names))
        evaluation.monitor_of(names, self.experiment.training.monitor)
        refuse_unknown(self.experiment.accept, names)

    def monitor(self, metrics: Metrics) -> str:
        """Return the name of the metric among these that says which weights are better."""
        return evaluation.monitor_of(list(figures(metrics)), self.experiment.training.monitor)

    def evaluate(self, stop_signal: Callable[[], int]) -> tuple[float, Metrics]:
        """Return a score, the higher the better, and the validation metrics."""
        metrics = self.measure("validation", stop_signal).metrics
        name = self.monitor(metrics)
        score = math.nan if metrics[name] is None else metrics[name]
        return (-score if self.evaluation.is_lower_better(name) else score), metrics

    def weights(self) -> bytes:
        """Return the content of ``weights.safetensors``, with the order of the model's tensors."""
        tensors = {
            name: tensor.detach().cpu().contiguous().clone()  # tied ones are written twice
            for name, tensor in self.model.state_dict().items()
        }
        content: bytes = safetensors.torch.save(tensors, {"order": json.dumps(list(tensors))})
        return content

    def stored(self) -> bytes:
        """Return the content of ``preprocess.json``: the settings and all that was fitted.

        And what answers are made by, where it is not the usual: the kind of the data set, and the
        names of the numbers in an input.
        """
        config, data = dataclasses.asdict(self.experiment.settings), self.dataset
        stored = {"model": self.experiment.model, "config": config} | self.preprocess.state()
        kind = {"kind": data.kind} if data.kind != "class" else {}
        columns = {"columns": list(data.columns)} if data.columns else {}
        return readable_json(stored | kind | columns)


def _shaped(values: NDArray[Any]) -> str:
    return f", for {values.dtype} {tuple(values.shape)}"


def evaluation_of(parts: "Parts", config: Any, dataset: Dataset) -> evaluation.Evaluation:
    """Return how a model's package with a Config is measured on a data set."""
    return evaluation.Evaluation.of(
        parts,
        config,
        kind=dataset.kind,
        classes=len(dataset.labels),
        output=output_of(parts, dataset.kind),
    )


def objective(experiment: Experiment, dataset: Dataset) -> tuple[str, bool]:
    """Return the metric that a training will go by, and whether less of it is better."""
    parts = home.here().module(experiment.model)
    measuring, name = (
        evaluation_of(parts, experiment.settings, dataset),
        experiment.training.monitor,
    )
    if not name and measuring.is_own:
        setup = Setup(experiment, dataset, ALONE)
        setup.rehearse_evaluation()
        name, *_ = setup.evaluation.names
    name = name or DEFAULTS[dataset.kind][0]
    return name, measuring.is_lower_better(name)


def _refuse_different(tensors: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    """Raise ModelError if a model that was made again from the same seed has other tensors."""
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor):
            one, other = (each.detach().cpu().flatten() for each in (tensor, again[name]))
            if one.numel() and not torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
                raise ModelError(
                    f"{name}: found other values when the model was made again from the same seed; "
                    "draw them from torch's default generator (nn.init, torch.randn), not from "
                    "time, the system or an unseeded generator of NumPy."
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
            training.progress.step,
            setup.steps,
            setup.workers.block(settings.shards),
            settings.loaders,
        )
        stack.enter_context(home.readable_errors("training"))
        train(
            training,
            stack.enter_context(closing(steps)),
            steps=setup.steps,
            until=min(until or setup.steps, setup.steps),
            steps_per_epoch=batches.steps_per_epoch,
            learning_rate=setup.learning_rate,
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
