"""What a model is worth: its outputs on a split, block by block, and the metrics of them."""

import functools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lockstep.ground import home
from lockstep.ground.digests import canonical_json, key_of
from lockstep.ground.errors import ModelError, nearest
from lockstep.ground.generators import reseed
from lockstep.program import Batch, Kind, Losses, Update, rows_of
from lockstep.training import metrics as defaults
from lockstep.training.distributed import ALONE, Workers
from lockstep.training.metrics import RESERVED, Metrics, exact_sum, figure, figures

Fields = Any  # a tensor or array (n, ...), or a dict of them by name
Outputs = NDArray[np.float32]
Mode = Callable[[], AbstractContextManager[Any]]  # in which outputs are computed
Sums = dict[str, tuple[float, float]]  # by name the sum of values, and of what they count


# Functions of a program may be a library's own, such as one of scikit-learn.
_program_errors = functools.partial(home.readable_errors, anywhere=True)


class EvaluationStopped(Exception):
    """A signal to one of the workers asked to stop before all blocks were evaluated."""


class Blocks(Protocol):
    """A split in blocks of rows, whose edges do not depend on who evaluates which."""

    @property
    def target(self) -> Any: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Any: ...

    def rows(self, number: int) -> slice: ...

    def targets(self, number: int) -> Any: ...


@dataclass(frozen=True)
class Measurement:
    """The metrics of a split, and what they were made of.

    ``outputs`` (rows, ...) and ``target`` are None where the metrics need no more than sums over
    blocks; of masks they are ``confusions``.
    """

    metrics: Metrics
    outputs: Outputs | None
    target: Any


@dataclass(frozen=True)
class Evaluation:
    """How a program is measured: what its output is, and which metrics are made of it.

    ``metrics`` and ``measures`` are the program's own; without them the metrics are those of the
    data set's ``kind``, over so many ``classes``. ``loss`` is that of training, in evaluation mode.
    ``names`` are those of the metrics, as a rehearsal has seen them.
    """

    kind: Kind
    classes: int
    output: Callable[[nn.Module, Any], torch.Tensor]
    loss: Callable[[nn.Module, Batch], Any]
    metrics: Callable[[Any, Any], Any] | None = None
    measures: Callable[[Any, Any], Any] | None = None
    lower_is_better: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, parts: Any, config: Any, kind: Kind, classes: int, output: Any) -> "Evaluation":
        """Return the evaluation of a model's package. Raises ModelError for what is none."""
        own = {name: getattr(parts, name, None) for name in ("metrics", "measures")}
        for name, function in own.items():
            if function is not None and not callable(function):
                raise ModelError(f"{name}: found {function!r:.60}, expected a function.")
        lower = getattr(parts, "lower_is_better", ())
        if isinstance(lower, str) or not all(isinstance(name, str) for name in lower):
            raise ModelError(
                f"lower_is_better: found {lower!r:.60}, expected names of metrics, as ('fid',)."
            )
        updates = getattr(parts, "updates", None)
        loss = _loss_of(updates(config)[0]) if updates else parts.loss
        return cls(kind, classes, output, loss, own["metrics"], own["measures"], tuple(lower))

    @property
    def is_own(self) -> bool:
        """Whether the program has metrics of its own."""
        return bool(self.metrics or self.measures)

    @property
    def keeps_outputs(self) -> bool:
        """Whether the outputs of a whole split are needed at once."""
        return bool(self.metrics) or (not self.is_own and self.kind != "none")

    @property
    def keeps_target(self) -> bool:
        """Whether the targets of a whole split are needed at once."""
        return self.keeps_outputs and (self.is_own or self.kind != "mask")

    @property
    def has_loss(self) -> bool:
        """Whether the program's loss is evaluated; that of a classifier follows from its output."""
        return self.is_own or self.kind != "class"

    def is_lower_better(self, name: str) -> bool:
        """Return whether less of a metric is better."""
        return defaults.is_lower_better(name, self.lower_is_better)


def _loss_of(update: Update) -> Callable[[nn.Module, Batch], Any]:
    """Return the loss of an update; one of representations takes those of the block itself."""
    represent = update.represent
    if represent is None:
        return update.loss

    def loss(model: nn.Module, batch: Batch) -> Any:
        return update.loss(model, Batch(represent(model, batch), batch.target))

    return loss


def measure(
    model: nn.Module,
    blocks: Blocks,
    evaluation: Evaluation,
    workers: Workers = ALONE,
    stop_signal: Callable[[], int] = lambda: 0,
) -> Measurement:
    """Measure a model on a split.

    Each worker evaluates some of the blocks; all get the whole, and the same bits for any number of
    them. Raises EvaluationStopped in all workers, between two blocks, when ``stop_signal`` of one
    of them is not 0, and ModelError for what the program's own functions may not return.
    """
    kept, sums = _Kept(blocks), dict[int, Sums]()
    with evaluation_mode(model):
        for first in range(0, len(blocks), workers.count):
            if workers.any(bool(stop_signal())):  # also shows the others that this one is at work
                raise EvaluationStopped
            if (number := first + workers.rank) < len(blocks):
                part, sums[number] = _block(model, blocks, number, evaluation, torch.inference_mode)
                kept.put(number, part)
    rows, totals = _gathered(kept.rows, sums, blocks, workers)
    return _concluded(evaluation, rows, blocks, totals)


def rehearse(model: nn.Module, few: Blocks, whole: Blocks, evaluation: Evaluation) -> list[str]:
    """Return the names of a program's metrics, in their order.

    They are tried on a few rows, and on the whole split where ``metrics`` raises an error, as some
    do for few rows. Not in inference mode, in which composite operations show and not their parts.
    Raises ModelError for what is no metric.
    """
    with evaluation_mode(model), warnings.catch_warnings(action="ignore"), torch.no_grad():
        try:
            found = _alone(model, few, evaluation)
        except ModelError as error:
            if evaluation.metrics is None or error.__cause__ is None:
                raise
            found = _alone(model, whole, evaluation)
    return list(figures(found.metrics))


def _alone(model: nn.Module, blocks: Blocks, evaluation: Evaluation) -> Measurement:
    kept, sums = _Kept(blocks), dict[int, Sums]()
    for number in range(len(blocks)):
        part, sums[number] = _block(model, blocks, number, evaluation, torch.no_grad)
        kept.put(number, part)
    rows, totals = _gathered(kept.rows, sums, blocks, ALONE)
    return _concluded(evaluation, rows, blocks, totals)


def monitor_of(names: Sequence[str], wanted: str) -> str:
    """Return the metric that training watches: ``wanted``, or the first one if that is empty.

    Raises ModelError if there is no such metric.
    """
    if not wanted:
        return names[0]
    if wanted not in names:
        raise ModelError(
            f"training.monitor: found {wanted!r}, no such metric.{nearest(wanted, names)} (there "
            f"are {', '.join(names)})"
        )
    return wanted


class _Kept:
    """What is kept of each row of a split, (rows, ...) float32; its shape shows with the first."""

    def __init__(self, blocks: Blocks):
        self._blocks = blocks
        self.rows: Outputs | None = None

    def put(self, number: int, part: Outputs | None) -> None:
        """Put what is kept of a block in its place."""
        if part is None:
            return
        if self.rows is None:
            self.rows = np.zeros((_length(self._blocks), *part.shape[1:]), np.float32)
        if part.shape[1:] != self.rows.shape[1:]:
            raise ModelError(
                f"output: found rows of shape {part.shape[1:]} in block {number}, expected "
                f"{self.rows.shape[1:]} as before; define `measures` for outputs of several shapes."
            )
        self.rows[self._blocks.rows(number)] = part


def _length(blocks: Blocks) -> int:
    return int(blocks.rows(len(blocks) - 1).stop)


def _gathered(
    rows: Outputs | None, sums: Mapping[int, Sums], blocks: Blocks, workers: Workers
) -> tuple[Outputs | None, Sums]:
    """Return what all workers have kept of rows, and their sums over all blocks."""
    names = list(next(iter(sums.values()), {}))
    shape = None if rows is None else list(rows.shape)
    if len(blocks) < workers.count:  # some have had no block to see it in
        facts = workers.broadcast_bytes(canonical_json({"names": names, "shape": shape}))
        names, shape = (json.loads(facts)[name] for name in ("names", "shape"))
    parts = np.zeros((len(blocks), len(names), 2))
    for number, block in sums.items():
        if list(block) != names:
            raise ModelError(
                f"measures: found {', '.join(block)} in block {number}, expected "
                f"{', '.join(names)} as in the first."
            )
        parts[number] = np.array(list(block.values())).reshape(-1, 2)
    parts = workers.all_gather(parts)
    totals = {
        name: (exact_sum(parts[:, place, 0]), exact_sum(parts[:, place, 1]))
        for place, name in enumerate(names)
    }
    if shape is None:
        return None, totals
    return workers.all_gather(np.zeros(shape, np.float32) if rows is None else rows), totals


def _block(
    model: nn.Module, blocks: Blocks, number: int, evaluation: Evaluation, mode: Mode
) -> tuple[Outputs | None, Sums]:
    """Return what is kept of the rows of a block, and what of it adds up."""
    device = next(model.parameters()).device
    with _program_errors("Preprocess"):
        inputs = _moved(blocks[number], device)
    target = blocks.targets(number)
    kept, sums = None, Sums()
    if evaluation.is_own or evaluation.kind != "none":
        _seed(number)
        with mode():
            outputs = _outputs(model, inputs, target, evaluation)
        sums["not_finite"] = float(defaults.broken_rows(outputs).sum()), 1.0
        if evaluation.measures:
            with _program_errors("measures"):
                values = evaluation.measures(outputs, target)
            sums |= _sums(values, len(outputs))
        if evaluation.keeps_outputs:
            masks = evaluation.kind == "mask" and not evaluation.is_own
            kept = defaults.confusions(outputs, target) if masks else outputs
    if evaluation.has_loss:
        batch = Batch(inputs, _moved(_tensors(target), device))
        sums["loss"] = sums.get("loss") or _loss(model, batch, number, evaluation)
    return kept, sums


def _seed(number: int) -> None:
    reseed(key_of(0, "evaluation", number))


def _outputs(model: nn.Module, inputs: Fields, target: Fields, evaluation: Evaluation) -> Outputs:
    with _program_errors("output"):
        answer = evaluation.output(model, inputs)
    rows = rows_of(inputs)
    if not isinstance(answer, torch.Tensor) or answer.dim() == 0 or len(answer) != rows:
        shown = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise ModelError(f"output: found {shown}, expected a tensor of {rows} rows.")
    outputs = answer.detach().float().cpu().numpy()
    if not evaluation.is_own:
        _refuse_other_shape(outputs.shape, target, evaluation)
    return outputs


def _refuse_other_shape(shape: tuple[int, ...], target: Any, evaluation: Evaluation) -> None:
    """Raise ModelError if outputs have not the shape that the kind's metrics need."""
    expected = target.shape
    if evaluation.kind in ("class", "mask"):
        expected = (len(target), evaluation.classes, *target.shape[1:])
    if shape != expected:
        raise ModelError(
            f"Model: found outputs {shape}, expected {expected} for targets of the kind "
            f"{evaluation.kind!r}; correct its last layer, or define `metrics` or `measures` of "
            "your own."
        )


def _loss(
    model: nn.Module, batch: Batch, number: int, evaluation: Evaluation
) -> tuple[float, float]:
    """Return the sum of the losses of a block, and what they count."""

    def computed(*, gradients: bool) -> Any:
        _seed(number)
        with torch.set_grad_enabled(gradients):
            return evaluation.loss(model, batch)

    with _program_errors("loss"):
        try:
            loss = computed(gradients=False)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            loss = computed(gradients=True)  # one that has a gradient in it, such as a penalty
    if isinstance(loss, torch.Tensor) and loss.dim() == 1:
        loss = Losses(loss)
    if not isinstance(loss, Losses):
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise ModelError(
                f"loss: found {_shape(loss)}, expected a scalar or Losses(values, weights)."
            )
        rows = rows_of(batch.inputs)
        return float(loss.detach()) * rows, float(rows)
    return _weighted("loss", loss, rows_of(batch.inputs))


def _sums(values: Any, rows: int) -> Sums:
    """Return the sums of the program's own measures of a block."""
    if not isinstance(values, Mapping):
        raise ModelError(
            f"measures: found {type(values).__name__}, expected a dict of values (n,) by name."
        )
    _refuse_names("measures", values)
    return {
        name: _weighted(
            f"measures: {name}", value if isinstance(value, Losses) else Losses(value), rows
        )
        for name, value in values.items()
    }


def _weighted(name: str, losses: Losses, rows: int) -> tuple[float, float]:
    """Return the sum of values (n,) times their weights, and that of the weights."""
    both = []
    for part in (losses.values, losses.weights):
        array = np.ones(rows) if part is None else _array(part)
        if array is None or array.shape != (rows,):
            raise ModelError(
                f"{name}: found {_shape(part)}, expected ({rows},), one value for each example."
            )
        both.append(array)
    values, weights = both
    return exact_sum(values * weights), exact_sum(weights)


def _array(value: Any) -> NDArray[np.float64] | None:
    """Return a tensor, array or list as numbers; None if it is none."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return None


def _concluded(
    evaluation: Evaluation, kept: Outputs | None, blocks: Blocks, totals: Sums
) -> Measurement:
    """Return the metrics of a whole split, from what was kept of its rows and their sums."""
    broken = int(totals.pop("not_finite", (0.0, 1.0))[0])
    means = {name: _mean(*pair) for name, pair in totals.items()}
    loss = means.pop("loss", None)
    target = blocks.target if evaluation.keeps_target else None
    metrics: Metrics = {}
    if evaluation.metrics:
        try:
            metrics = _own(evaluation.metrics, kept, target)
        except ModelError as error:
            if not broken or error.__cause__ is None:
                raise
            # Most of scikit-learn takes no NaN: then none of the metrics is a number.
            metrics = dict.fromkeys(evaluation.names - means.keys() - {"loss"})
    elif not evaluation.is_own and kept is not None:
        metrics = _DEFAULT[evaluation.kind](kept, target)
    if twice := metrics.keys() & means.keys():
        raise ModelError(f"measures: {min(twice)} is among the metrics too; rename one of them.")
    metrics = metrics | means
    if evaluation.has_loss:
        metrics.setdefault("loss", loss)
    if broken:
        metrics["not_finite"] = broken
    return Measurement(metrics, kept, target)


_DEFAULT: dict[Kind, Callable[[Any, Any], Metrics]] = {
    "class": defaults.classification,
    "labels": defaults.multilabel,
    "numbers": defaults.regression,
    "mask": lambda counts, _: defaults.segmentation(counts),
}


def _mean(total: float, weight: float) -> float | None:
    return figure(total / weight) if weight else None


def _own(function: Callable[[Any, Any], Any], outputs: Any, target: Any) -> Metrics:
    """Return what a program's own function makes of all outputs."""
    with _program_errors("metrics"):
        result = function(outputs, target)
    if not isinstance(result, Mapping):
        raise ModelError(
            f"metrics: found {type(result).__name__}, expected a dict of numbers by name."
        )
    _refuse_names("metrics", result)
    metrics: Metrics = {}
    for name, value in result.items():
        array = None if isinstance(value, str) else _array(value)
        if array is None or array.size != 1:
            raise ModelError(f"metrics: {name}: found {_shape(value)}, expected a number.")
        metrics[name] = figure(array.item())
    return metrics


def _refuse_names(function: str, names: Mapping[Any, Any]) -> None:
    for name in names:
        if not isinstance(name, str) or not (name.isidentifier() and name.isascii()):
            raise ModelError(
                f"{function}: found the name {name!r:.60}, expected letters, digits and _ after a "
                "letter."
            )
        if name in RESERVED:
            raise ModelError(
                f"{function}: the name {name!r} has a meaning already; choose another."
            )


def _shape(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return str(tuple(shape)) if shape else f"{type(value).__name__} {value!r:.40}"


def _tensors(fields: Fields) -> Fields:
    if isinstance(fields, Mapping):
        return {name: torch.from_numpy(array) for name, array in fields.items()}
    return torch.from_numpy(fields)


def _moved(fields: Fields, device: torch.device) -> Fields:
    if isinstance(fields, Mapping):
        return {name: tensor.to(device) for name, tensor in fields.items()}
    return fields.to(device)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Keep a model in evaluation mode, and give each of its parts back its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # not all alike: a part may stay in evaluation on purpose
            module.training = training
