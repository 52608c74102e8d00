"""The training loop."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
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
from lockstep.training.optimizer import Own
from lockstep.training.parameters import FlatParameters
from lockstep.training.shards import Outcome, Step
from lockstep.training.updates import Move

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
        moves: Sequence[Move],
        *,
        clip: float = 0.0,
        clip_value: float = 0.0,
        average: float = 0.0,
        after_step: Callable[[int], None] | None = None,
    ):
        self.flat, self.moves, self.after_step = flat, moves, after_step
        self.clip, self.clip_value, self.decay = clip, clip_value, average
        self.progress = Progress()
        self.average = flat.values.clone() if average else None
        self.average_buffers = flat.buffers.clone() if average else None

    def snapshot(self) -> Snapshot:
        """A copy of the present state; the only part of a checkpoint that holds up training."""
        tensors = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        states = []
        for number, move in enumerate(self.moves):
            kept, state = move.optimizer.snapshot()
            tensors |= {f"{_prefix(number)}{name}": tensor for name, tensor in kept.items()}
            states.append(state)
        state = {"progress": asdict(self.progress), "optimizers": states}
        return Snapshot(self.progress.step, tensors, state)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot as if nothing had happened in between."""
        for key, tensor in self._tensors().items():
            tensor.copy_(snapshot.tensors[key])
        for number, move in enumerate(self.moves):
            prefix = _prefix(number)
            kept = {
                name.removeprefix(prefix): tensor
                for name, tensor in snapshot.tensors.items()
                if name.startswith(prefix)
            }
            move.optimizer.restore(kept, snapshot.state["optimizers"][number])
        self.progress = Progress(**snapshot.state["progress"])

    def broadcast(self, workers: Workers) -> None:
        """Bring all workers to where the first one stands."""
        workers.broadcast(*self._tensors().values())
        for move in self.moves:
            move.optimizer.broadcast(workers)
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

    def moved_last(self) -> list[str]:
        """Return the parameters whose gradient stands in the model after a step."""
        step = self.progress.step - 1
        due = [move for move in self.moves if step % move.every == 0]
        parts = due[-1].optimizer.parts if due else ()
        return [name for part in parts if step >= part.group.start for name in part.names]

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {"values": self.flat.values, "buffers": self.flat.buffers}
        tensors |= {f"count-{i}": count for i, count in enumerate(self.flat.counts)}
        if self.average is not None and self.average_buffers is not None:
            tensors |= {"average": self.average, "average-buffers": self.average_buffers}
        if self.after_step:
            tensors |= {f"frozen-{name}": t.data for name, t in self.flat.frozen.items()}
        return tensors


def _prefix(update: int) -> str:
    return f"optimizer-{update}/"


def train(
    training: Training,
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
            loss, batch, stops = advance(training, next(batches), rate, bool(signal))
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


def advance(training: Training, batch: Step, rate: float, stop: bool = False) -> Outcome:
    """Take one step: the updates that are due, in their order, then what follows them.

    Returns the outcome of the first of them. Raises Diverged when a loss or a gradient is not
    finite.
    """
    step, (samples, shards) = training.progress.step, batch
    due = [move for move in training.moves if step % move.every == 0]
    if len(due) > 1:
        shards = list(shards)  # read by each of them
    first = None
    for move in due:
        outcome = move.gradient.compute(step, samples, shards, stop)
        apply(training, move, rate, outcome.loss)
        first = first or outcome
    if training.after_step:
        training.after_step(step)
    follow(training)
    assert first  # one update is due in each step
    return first


def apply(training: Training, move: Move, rate: float, loss: float) -> None:
    """Move the parameters of an update by the gradient that stands in the model.

    Raises Diverged when the loss or the gradient is not finite.
    """
    step, flat = training.progress.step, training.flat
    gradient = flat.gradient
    for part in move.optimizer.parts:
        for one in flat.slices(part.names) if step < part.group.start else ():
            gradient[one] = 0
    norm = float(torch.linalg.vector_norm(gradient))
    if not math.isfinite(loss) or not math.isfinite(norm):
        what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient's norm is {norm}"
        raise Diverged(
            f"step {step + 1}: {what}, expected a finite number; the last good checkpoint is kept. "
            "Lower training.lr or set training.clip, which makes it another run."
        )
    if training.clip and norm > training.clip:
        gradient.mul_(training.clip / norm)
    if training.clip_value:
        gradient.clamp_(-training.clip_value, training.clip_value)
    for group, parts in itertools.groupby(move.optimizer.parts, lambda part: part.group):
        if group.clip:
            names = [name for part in parts for name in part.names]
            _clip([gradient[one] for one in flat.slices(names)], group.clip)
    if isinstance(move.optimizer, Own):  # it may draw numbers, the same in each worker
        move.gradient.reseed(step, move.gradient.shards + 1)
    move.optimizer.step(rate * move.rate if move.rate != 1.0 else rate, step)


def _clip(gradients: Sequence[torch.Tensor], largest: float) -> None:
    norm = math.hypot(*(float(torch.linalg.vector_norm(part)) for part in gradients))
    if norm > largest:
        for part in gradients:
            part.mul_(largest / norm)


def follow(training: Training) -> None:
    """Let the averaged weights and buffers follow those of the model, if there are any."""
    step = training.progress.step + 1
    # Early on the mean follows faster, or it would be one of the first random weights.
    decay = min(training.decay, step / (step + 10))
    if training.average is not None:
        training.average.lerp_(training.flat.values, 1 - decay)
    if training.average_buffers is not None:
        # As torch's AveragedModel(use_buffers=True): batch statistics belong to their weights.
        buffers, mean = training.flat.buffers, training.average_buffers
        constant = mean == buffers  # also an infinity, which has no mean
        torch.where(constant, buffers, mean.lerp(buffers, 1 - decay), out=mean)
