"""The training loop."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from signal import SIGTERM
from typing import Protocol

import torch

from lockstep.ground.digests import canonical_json
from lockstep.ground.errors import Diverged, Interrupted
from lockstep.training.checkpoint import Snapshot
from lockstep.training.distributed import Workers
from lockstep.training.evaluation import EvaluationStopped
from lockstep.training.metrics import Metrics
from lockstep.training.optimizer import Optimizer
from lockstep.training.parameters import FlatParameters
from lockstep.training.shards import ShardedGradient, Step

INSPECT_EVERY = 100  # steps


@dataclass
class Progress:
    """Where a run stands: with the tensors, all that a checkpoint needs."""

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    epochs_since_best: int = 0
    stopped_early: bool = False
    awaits_evaluation: bool = False  # the epoch that ended with this step


class Observer(Protocol):
    """Hears of each step and epoch; none of it changes the training."""

    def step(self, step: int, loss: float, batch: int, rate: float) -> None: ...

    def epoch(self, epoch: int, step: int, better: bool, validation: Metrics) -> None: ...


class Training:
    """A model in training, with all that changes from step to step."""

    def __init__(
        self,
        flat: FlatParameters,
        optimizer: Optimizer,
        *,
        clip: float = 0.0,
        average: float = 0.0,
    ):
        self.flat, self.optimizer, self.clip, self.decay = flat, optimizer, clip, average
        self.progress = Progress()
        self.average = flat.values.clone() if average else None
        self.average_buffers = flat.buffers.clone() if average else None

    def snapshot(self) -> Snapshot:
        """A copy of the present state; the only part of a checkpoint that holds up training."""
        tensors = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        return Snapshot(self.progress.step, tensors, {"progress": asdict(self.progress)})

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot as if nothing had happened in between."""
        for key, tensor in self._tensors().items():
            tensor.copy_(snapshot.tensors[key])
        self.progress = Progress(**snapshot.state["progress"])

    def broadcast(self, workers: Workers) -> None:
        """Bring all workers to where the first one stands."""
        workers.broadcast(*self._tensors().values())
        progress = workers.broadcast_bytes(canonical_json(asdict(self.progress)))
        self.progress = Progress(**json.loads(progress))

    @contextmanager
    def kept_weights(self) -> Iterator[None]:
        """While this lasts, the model has what is kept: averaged weights and buffers, if any."""
        if self.average is None or self.average_buffers is None:
            yield
            return
        now, kept = (self.flat.values, self.flat.buffers), (self.average, self.average_buffers)
        last = [tensor.clone() for tensor in now]
        for tensor, average in zip(now, kept, strict=True):
            tensor.copy_(average)
        try:
            yield
        finally:
            for tensor, value in zip(now, last, strict=True):
                tensor.copy_(value)

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {"values": self.flat.values, "buffers": self.flat.buffers}
        tensors |= {f"count-{i}": count for i, count in enumerate(self.flat.counts)}
        if self.average is not None and self.average_buffers is not None:
            tensors |= {"average": self.average, "average-buffers": self.average_buffers}
        tensors |= {f"optimizer-{name}": t for name, t in self.optimizer.tensors.items()}
        return tensors


def train(
    training: Training,
    gradient: ShardedGradient,
    batches: Iterator[Step],
    *,
    steps: int,
    until: int,
    steps_per_epoch: int,
    learning_rate: Callable[[int], float],
    evaluate: Callable[[Callable[[], int]], tuple[float, Metrics]],
    patience: int,
    observer: Observer,
    save: Callable[[Callable[[], Snapshot]], None],
    save_is_due: Callable[[int], bool],
    inspect: Callable[[int], None],
    stop_signal: Callable[[], int],
) -> None:
    """Train from where ``training`` stands to step ``until`` of ``steps``, or as long as it helps.

    ``evaluate`` answers (score, metrics), a higher score being better; it raises EvaluationStopped
    after a signal, and then the epoch is evaluated when training resumes. Raises Diverged when the
    loss or the gradient is not finite, and Interrupted after a signal to any of the workers, when
    the state is saved. ``inspect`` looks at the model now and then, and raises if it may not be so.
    """
    now = training.progress
    while now.awaits_evaluation or (now.step < until and not now.stopped_early):
        signal, stops = stop_signal(), 0
        if not now.awaits_evaluation:  # else it was stopped in the evaluation of an epoch
            rate = learning_rate(now.step)
            loss, batch, stops = gradient.compute(now.step, *next(batches), bool(signal))
            update(training, rate, loss)
            now.step += 1
            observer.step(now.step, loss, batch, rate)
            now.awaits_evaluation = now.step % steps_per_epoch == 0
            if now.awaits_evaluation or now.step % INSPECT_EVERY == 0:
                inspect(now.step)

        due = save_is_due(now.step) or now.step == until
        if now.awaits_evaluation and not stops:
            try:
                with training.kept_weights():
                    score, validation = evaluate(stop_signal)
            except EvaluationStopped:
                stops = 1
            else:
                now.awaits_evaluation = False
                better = math.isfinite(score) and (now.best is None or score > now.best)
                if better:
                    now.best, now.best_step, now.epochs_since_best = score, now.step, 0
                else:
                    now.epochs_since_best += 1
                    now.stopped_early = 0 < patience <= now.epochs_since_best
                due = due or better or now.stopped_early
                observer.epoch(now.step // steps_per_epoch, now.step, better, validation)
        if due or stops:
            save(training.snapshot)
        if stops:
            signal = stop_signal() or signal or SIGTERM
            raise Interrupted(signal, f"stopped at step {now.step} of {steps}, saved")


def update(training: Training, rate: float, loss: float) -> None:
    """One step of the optimizer on the gradient that stands in the model.

    Raises Diverged when the loss or the gradient is not finite.
    """
    step, gradient = training.progress.step + 1, training.flat.gradient
    norm = float(torch.linalg.vector_norm(gradient))
    if not math.isfinite(loss) or not math.isfinite(norm):
        what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient's norm is {norm}"
        raise Diverged(
            f"step {step}: {what}, expected a finite number; the last good checkpoint is kept. "
            "Lower training.lr or set training.clip, which makes it another run."
        )
    if training.clip and norm > training.clip:
        gradient.mul_(training.clip / norm)
    training.optimizer.step(rate)
    if training.average is not None:
        # Early on the mean follows faster, or it would be one of the first random weights.
        decay = min(training.decay, step / (step + 10))
        training.average.lerp_(training.flat.values, 1 - decay)
    if training.average_buffers is not None:
        # As torch's AveragedModel(use_buffers=True): batch statistics belong to their weights.
        buffers, mean = training.flat.buffers, training.average_buffers
        constant = mean == buffers  # also an infinity, which has no mean
        torch.where(constant, buffers, mean.lerp(buffers, 1 - decay), out=mean)
