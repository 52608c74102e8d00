"""What a program says beyond the five names: batches, losses, updates, groups of parameters.

Plain types that load nothing: ``lockstep.model`` offers them to models, and the engine's training
reads them. Names of a model's package with defaults that are said here:

- ``output(model, inputs)``: what the model answers, (n, ...); metrics and answers are made of it.
- ``metrics(outputs, target)``: figures of a whole split, by name, from NumPy arrays (rows, ...).
- ``measures(outputs, target)``: values (n,) of a block's examples, or ``Losses``, by name; a metric
  is their mean over the split.
- ``lower_is_better``: names of metrics, beside the usual ones, of which less is better.
- ``sampling(config, inputs, target)``: how often the training examples are drawn and in which
  order, from their arrays (rows, ...); ``None`` is each once, shuffled.
- ``updates(config)``: the updates of a step, in order.
- ``groups(config)``: groups of parameters with their own rate, decay and first step.
- ``optimizer(config, groups)``: a torch.optim.Optimizer, of torch's or your own class.
- ``schedule(config, steps)``: a function from the step to a factor of training.lr; a third
  parameter gets the epochs.
- ``after_step(model, step)``: moves what no gradient moves, once in a step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

# What the target of an example is: one class of several; any of several labels, (k,) of 0 and 1;
# numbers (k,); a class for each pixel, (height, width); or nothing, (0,).
Kind = Literal["class", "labels", "numbers", "mask", "none"]


class Batch(NamedTuple):
    """Examples of a batch, or of a shard of it.

    ``inputs`` is what Preprocess makes: a tensor (n, ...), or a dict of tensors by name.
    ``target`` is what the data set says of them: for classes (n,) int64, else a tensor (n, ...) of
    the data's type, or a dict of tensors by name where the data set has several fields. Without a
    target it is (n, 0).
    """

    inputs: Any
    target: Any


def rows_of(fields: Any) -> int:
    """Return the number of examples in a tensor or array (n, ...), or in a dict of them by name."""
    return len(next(iter(fields.values())) if isinstance(fields, Mapping) else fields)


class Losses(NamedTuple):
    """A loss for each example, (n,), and what each counts, (n,); 1 where nothing is said.

    The loss of a step is the exact weighted mean over its whole batch, however it is cut: a mean
    over tokens has the sum over an example's tokens as value, their number as weight, and
    ``Losses.of_sums`` makes it from these.
    """

    values: Any
    weights: Any = None

    @classmethod
    def of_sums(cls, sums: Any, counts: Any) -> "Losses":
        """Return the losses of examples that have sums (n,) over so many things (n,) each."""
        return cls(sums / counts.clamp(min=1), counts)


@dataclass(frozen=True)
class Update:
    """A part of a step: a loss, and the parameters that it moves.

    ``loss(model, batch)`` returns a scalar, the mean over the examples that it is given, or
    ``Losses``. ``parameters`` are patterns of their names, as ``generator.*``. With ``represent``,
    ``loss`` is called once for the whole batch, with the representations (n, ...) of all shards in
    order as its inputs: ``represent(model, batch)`` makes those of a shard. ``optimizer`` and
    ``rate``, a factor of training.lr, are for this update alone. It happens every ``every`` steps.
    """

    loss: Callable[[Any, Batch], Any]
    parameters: str | Sequence[str] = "*"
    represent: Callable[[Any, Batch], Any] | None = None
    optimizer: Callable[[list[dict[str, Any]]], Any] | None = None
    rate: float = 1.0
    every: int = 1


@dataclass(frozen=True)
class Group:
    """Parameters, by patterns of their names, that learn in a way of their own.

    ``rate`` is a factor of training.lr, ``decay`` takes the place of training.weight_decay, before
    step ``start`` the parameters stay as they are, and ``clip`` is the largest norm of their
    gradient, 0 for any. A parameter belongs to the first group that names it.
    """

    parameters: str | Sequence[str]
    rate: float = 1.0
    decay: float | None = None
    start: int = 0
    clip: float = 0.0


@dataclass(frozen=True)
class Weighted:
    """Draw examples with replacement, as often as their weights (rows,) say.

    An epoch has as many draws as there are examples.
    """

    weights: Any


@dataclass(frozen=True)
class Balanced:
    """Draw from each group alike, or by its share; ``groups`` (rows,) has each example's number.

    An epoch has as many draws as there are examples. Within a group an example is drawn again when
    all others of it were, over the epochs. Groups may be classes, or the sources of mixed data.
    """

    groups: Any
    shares: Mapping[int, float] | None = None


@dataclass(frozen=True)
class Sorted:
    """Take examples in the order of their keys (rows,): by time, or the easy ones first.

    They are shuffled within windows of so many.
    """

    keys: Any
    window: int = 1


@dataclass(frozen=True)
class Bucketed:
    """Put examples of like lengths (rows,) into a batch, so that little of it is padding.

    All are shuffled, those of so many ``batches`` are sorted by length, and their batches shuffled.
    """

    lengths: Any
    batches: int = 50


Sampling = Weighted | Balanced | Sorted | Bucketed
