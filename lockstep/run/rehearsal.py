"""The rehearsal: at each start, before the first step, a run tries what it promises.

Two shards of a full batch and of the last batch of an epoch are computed twice from one state,
the second time in the opposite order, and their bits compared. What breaks a law is refused by
name: chance that is drawn from a generator that nobody seeds, state outside the checkpoint, losses
that move parameters or are no mean, code and files that are in no identity.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xxhash

from lockstep.ground import home
from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.errors import EnvironmentMismatch, ModelError
from lockstep.run.making import Setup
from lockstep.training.evaluation import evaluation_mode
from lockstep.training.parameters import FlatParameters
from lockstep.training.shards import Batch, ShardedGradient

_LARGEST_DIFFERENCE = 1e-3  # of the gradients of a whole and of its halves, by their norm
_MEAN_OF = 32  # examples, enough for that


def rehearse(setup: Setup) -> "Inspection":
    """Compute shards twice and compare; return what looks on while the run trains.

    Raises ModelError with what breaks a law, in one line.
    """
    before = setup.training.snapshot()
    try:
        states = [_attributes(setup)]
        passes, reached = [], set[str]()
        for order in (1, -1):
            passes.append(_fingerprints(setup, order, before.tensors["values"], reached))
            states.append(_attributes(setup))
        _refuse_replaced(setup)
        _refuse_moving(states[1], states[2])
        _refuse_without_gradient(setup, reached)
        _refuse_different(*passes)
        _refuse_no_mean(setup)
    finally:
        setup.training.restore(before)
    return Inspection(setup)


class Inspection:
    """Looks between steps at what a rehearsal cannot see, as it happens later.

    Called with the number of steps done; raises ModelError for what no step may change.
    """

    def __init__(self, setup: Setup):
        self._setup = setup
        self._modes = _modes(setup)
        self._trained = _trained(setup)
        self._values, self._changed = _attributes(setup), set[str]()
        self._unreached = Unreached(setup)

    def __call__(self, step: int) -> None:
        try:
            _refuse_replaced(self._setup)
            self._refuse_switched()
            self._unreached.refuse()
            self._refuse_moving()
        except ModelError as error:
            raise ModelError(f"step {step}: {error}") from None

    def _refuse_switched(self) -> None:
        for name, mode in _modes(self._setup).items():
            if mode != self._modes.get(name, mode):
                kind = "training" if mode else "evaluation"
                raise ModelError(
                    f"{name or 'Model'}: switched to {kind} mode in a step, which is in no "
                    "checkpoint; choose the mode in Model.__init__."
                )
        for name, trained in _trained(self._setup).items():
            if trained != self._trained.get(name, trained):
                raise ModelError(
                    f"{name}: requires_grad became {trained} in a step, which is in no checkpoint; "
                    "choose what is trained in Model.__init__."
                )

    def _refuse_moving(self) -> None:
        """Refuse what changed at two looks in a row: a cache settles, a counter goes on."""
        now = _attributes(self._setup)
        changed = {name for name, value in now.items() if self._values.get(name) != value}
        if moving := sorted(changed & self._changed):
            raise _moving(moving[0])
        self._values, self._changed = now, changed


class Unreached:
    """Notes in which steps no gradient reaches a parameter, as one of experts that data choose."""

    def __init__(self, setup: Setup):
        self._training, self._workers = setup.training, setup.workers
        self._since = self._training.progress.step
        self._reached = {name: set[int]() for name in self._training.flat.named}
        for name, parameter in self._training.flat.named.items():
            steps = self._reached[name]
            parameter.register_post_accumulate_grad_hook(
                lambda _, steps=steps: steps.add(self._training.progress.step)
            )

    def refuse(self) -> None:
        """Raise ModelError if a parameter was not reached, by any worker, in a step since last."""
        steps = range(self._since, self._training.progress.step)
        self._since = steps.stop
        counts = [len(reached) for reached in self._reached.values()]
        missing = any(count < len(steps) for count in counts)
        if self._workers.any(missing):  # else there is nothing to compare
            rows = np.array(
                [[step in reached for step in steps] for reached in self._reached.values()],
                np.float32,
            )
            for name, row in zip(self._reached, self._workers.all_gather(rows), strict=True):
                if not row.all():
                    step = steps[int(row.argmin())] + 1
                    raise ModelError(
                        f"{name}: no gradient reached it in step {step}, and yet weight decay or "
                        "momentum moved it; let the loss depend on it in every step "
                        "(+ 0 * parameter.sum())."
                    )
        for reached in self._reached.values():
            reached.clear()


def _modes(setup: Setup) -> dict[str, bool]:
    return {name: module.training for name, module in setup.model.named_modules()}


def _trained(setup: Setup) -> dict[str, bool]:
    return {name: tensor.requires_grad for name, tensor in setup.model.named_parameters()}


def agree(setup: Setup) -> dict[str, str]:
    """Compare what a worker was set up with, with the first worker's; return its digests.

    Raises EnvironmentMismatch if preprocessing or first weights differ.
    """
    mine = {"preprocessing": digest_of(setup.stored()), "first weights": digest_of(setup.weights())}
    first = json.loads(setup.workers.broadcast_bytes(canonical_json(mine)))
    for name, digest in mine.items():
        if first[name] != digest:
            raise EnvironmentMismatch(
                f"worker {setup.workers.rank}: its {name} differ from the first worker's; "
                "Preprocess.fit and Model must give the same from the same data and seed (no sets "
                "in order, no time, no files of one machine)."
            )
    return mine


def _fingerprints(
    setup: Setup, order: int, values: torch.Tensor, reached: set[str]
) -> dict[tuple[int, int], tuple[int, int]]:
    """Fingerprints of batch and row by step and shard; ``order`` is 1, or -1 for backwards.

    The parameters that a gradient reaches in the first step are added to ``reached``.
    """
    batches, flat = setup.batches, setup.training.flat
    buffers, counts = flat.buffers.clone(), [count.clone() for count in flat.counts]
    alone = ShardedGradient(
        setup.model,
        flat,
        setup.gradient.loss_of,
        setup.gradient.reseed,
        shards=batches.shards,
    )
    found = {}
    for step in sorted({0, batches.steps_per_epoch - 1}):
        ids = batches.ids(step)
        for shard in _chosen(len(ids), batches.shards)[::order]:
            batch = batches.at(step, shard)
            alone.block = range(shard, shard + 1)
            names = reached if step == 0 else set[str]()
            with _small_batches(len(ids), batches.shards, step), _noting_reached(flat, names):
                outcome = alone.compute(step, len(ids), [batch], False)
            row = xxhash.xxh3_64_intdigest(flat.sums.cpu().numpy().data)
            found[step, shard] = (outcome.batch, row)
            flat.buffers.copy_(buffers)
            for count, value in zip(flat.counts, counts, strict=True):
                count.copy_(value)
    if not torch.equal(flat.values, values):
        moved = flat.values != values
        raise ModelError(
            f"loss: it changed the parameter {_owner(setup, moved)}; parameters move once in a "
            "step, by the optimizer. Keep what follows them (a teacher, a target) as buffers."
        )
    return found


def _chosen(samples: int, shards: int) -> list[int]:
    """The first shard of a batch that is not empty, and the last: the smallest and the largest."""
    filled = [s for s in range(shards) if samples * (s + 1) // shards > samples * s // shards]
    return sorted({filled[0], filled[-1]})


@contextmanager
def _noting_reached(flat: FlatParameters, names: set[str]) -> Iterator[None]:
    """Add the parameters that a gradient reaches while this lasts."""
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: names.add(name))
        for name, parameter in flat.named.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _small_batches(samples: int, shards: int, step: int) -> Iterator[None]:
    """Say which batch it was in which a shard was too small for a layer."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ModelError(
            f"training.batch_size: the batch of step {step + 1} has {samples} examples in {shards} "
            "shards, some of one example alone, too few for batch statistics; choose a batch size, "
            "training.shards or data.limit that leaves two in each shard."
        ) from error


def _owner(setup: Setup, moved: torch.Tensor) -> str:
    """The name of the first parameter that has a value among those that moved."""
    start = 0
    for name, parameter in setup.training.flat.named.items():
        if moved[start : start + parameter.numel()].any():
            return name
        start += parameter.numel()
    return "of the model"


def _refuse_replaced(setup: Setup) -> None:
    flat = setup.training.flat
    if names := flat.replaced(setup.model):
        raise ModelError(
            f"{names[0]}: another tensor was assigned to it in a step, so it is in no checkpoint; "
            f"change it in place (self.{names[0].rpartition('.')[2]}.copy_(...))."
        )
    if names := flat.detached():
        raise ModelError(
            f"{names[0]}: its gradient was taken away or replaced in a step; the loss returns a "
            "value and leaves zero_grad, backward and .grad to the training."
        )
    if names := flat.changed_constants():
        kind = str(flat.constants[names[0]].dtype).removeprefix("torch.")
        raise ModelError(
            f"{names[0]}: a buffer of {kind} changed in a step, and only float32 and whole numbers "
            "can be summed over shards; make it float32, or keep it constant."
        )


def _refuse_moving(first: dict[str, int], second: dict[str, int]) -> None:
    if moving := [name for name in second if first.get(name) != second[name]]:
        raise _moving(moving[0])


def _moving(name: str) -> ModelError:
    return ModelError(
        f"{name}: changes in every step and is in no checkpoint, so a resumed run would be "
        "another; keep it as a buffer (register_buffer), or derive it from the inputs."
    )


def _refuse_without_gradient(setup: Setup, reached: set[str]) -> None:
    """Refuse a parameter that no example reaches: torch would leave it alone, a decay would not."""
    batches, flat = setup.batches, setup.training.flat
    if reached < flat.named.keys():  # perhaps the other shards reach it
        with _noting_reached(flat, reached):
            shards = (batches.at(0, shard) for shard in range(batches.shards))
            _gradient(setup, [part for part in shards if len(part[1])])
    if missing := [name for name in flat.named if name not in reached]:
        raise ModelError(
            f"{missing[0]}: no gradient reaches it in step 1, and yet weight decay or momentum "
            "would move it; set requires_grad=False, or let the loss depend on it."
        )


def _refuse_different(
    first: dict[tuple[int, int], tuple[int, int]], second: dict[tuple[int, int], tuple[int, int]]
) -> None:
    for (step, shard), (batch, row) in first.items():
        again = second[step, shard]
        if (batch, row) == again:
            continue
        where, advice = "loss or Model", "torch's default generator, which is seeded"
        if batch != again[0]:
            where, advice = "Preprocess", "the generator that augment is given"
        raise ModelError(
            f"{where}: step {step + 1}, shard {shard} has other bits when it is computed again; "
            f"chance must come from {advice} for each step and shard, and nothing may be kept "
            "from one shard for another."
        )


def _refuse_no_mean(setup: Setup) -> None:
    """Compare the gradient of a few examples with the mean of those of its halves."""
    batches = setup.batches
    if batches.shards == 1 or len(batches.ids(0)) < 2 * batches.shards:
        return
    parts = [batches.at(0, shard) for shard in range(batches.shards)]
    alike = [part for part in parts if shape_of(part[0]) == shape_of(parts[0][0])]
    inputs, labels = (torch.cat(tensors) for tensors in zip(*alike, strict=True))
    chosen = _of_many_labels(labels.tolist())
    whole, half = (inputs[chosen], labels[chosen]), len(chosen) // 2
    halves = [(whole[0][:half], whole[1][:half]), (whole[0][half:], whole[1][half:])]
    with evaluation_mode(setup.model):  # no dropout, and no statistics of the batch
        try:
            one, two = _gradient(setup, [whole]), _gradient(setup, halves)
        except RuntimeError:  # layers without a gradient in evaluation, as recurrent ones on a GPU
            return
        difference = float((one - two).norm() / max(float(one.norm()), 1e-30))
        if not (math.isfinite(difference) and difference > _LARGEST_DIFFERENCE):
            return
        if not torch.equal(one, _gradient(setup, [whole], first=1)):
            return  # chance in evaluation too: other examples would have other chance
    raise ModelError(
        f"loss: not the mean over its examples: the gradient of {len(chosen)} differs by "
        f"{difference:.1%} from that of two halves; return the mean of one value for each "
        "example (with class weights: F.cross_entropy(scores, labels, weight, "
        "reduction='none').mean()), or set training.shards=1."
    )


def _of_many_labels(labels: list[Any]) -> list[int]:
    """The places of a few examples, of as many labels as there are, sorted by label.

    So the halves have other labels, and a loss that weights them shows.
    """
    before, nth = Counter[str](), []
    for label in map(repr, labels):
        nth.append(before[label])
        before[label] += 1
    chosen = sorted(range(len(labels)), key=nth.__getitem__)[:_MEAN_OF]
    return sorted(chosen, key=labels.__getitem__)


def shape_of(inputs: torch.Tensor) -> tuple[int, ...]:
    """The shape of one example of a batch."""
    return tuple(inputs.shape[1:])


def _gradient(setup: Setup, shards: list[Batch], first: int = 0) -> torch.Tensor:
    """The gradient of these shards, with the chance of those from number ``first`` on."""
    alone = ShardedGradient(
        setup.model,
        setup.training.flat,
        setup.gradient.loss_of,
        setup.gradient.reseed,
        shards=len(shards),
    )
    alone.block = range(first, first + len(shards))
    alone.compute(0, sum(len(labels) for _, labels in shards), shards, False)
    return setup.training.flat.gradient.clone()


# What a step may not leave changed: attributes of modules, of the preprocessing, of the project's
# own modules. What torch keeps in a module itself is in checkpoints, or is the same always.
_TORCHS = {"_parameters", "_buffers", "_modules", "training", "_non_persistent_buffers_set"}


def _attributes(setup: Setup) -> dict[str, int]:
    """A fingerprint of each plain value that lives beside the model's parameters and buffers."""
    found: dict[str, int] = {}
    for name, module in setup.model.named_modules():
        if not type(module).__module__.startswith("torch."):
            found |= _values(f"{name or 'Model'}.", vars(module), _TORCHS)
    found |= _values("Preprocess.", vars(setup.preprocess), set())
    package = home.here().package
    for name, loaded in list(sys.modules.items()):
        if name.startswith(f"{package}.") and loaded is not None:
            found |= _values(f"{name}.", vars(loaded), {"__builtins__", "__cached__"})
            for kind in [one for one in vars(loaded).values() if isinstance(one, type)]:
                if kind.__module__ == name:
                    found |= _values(f"{name}.{kind.__name__}.", dict(vars(kind)), set())
    return found


def _values(prefix: str, values: dict[str, Any], ignored: set[str]) -> dict[str, int]:
    return {
        f"{prefix}{name}": _fingerprint(value, 3)
        for name, value in values.items()
        if name not in ignored and not name.startswith("__")
    }


def _fingerprint(value: Any, depth: int) -> int:
    """The same number for the same plain value; objects of other kinds all count alike."""
    if isinstance(value, torch.Tensor):
        return xxhash.xxh3_64_intdigest(_bytes_of(value.detach().cpu().contiguous()))
    if isinstance(value, np.ndarray) and value.dtype != object:
        return xxhash.xxh3_64_intdigest(np.ascontiguousarray(value).tobytes())
    if isinstance(value, bool | int | float | complex | str | bytes | None):
        return hash((type(value).__name__, repr(value)))
    if depth and isinstance(value, list | tuple):
        return hash(tuple(_fingerprint(one, depth - 1) for one in value[:1000]))
    if depth and isinstance(value, set | frozenset):
        return hash(frozenset(_fingerprint(one, depth - 1) for one in value))
    if depth and isinstance(value, dict):
        items = list(value.items())[:1000]
        return hash(tuple((repr(key)[:80], _fingerprint(one, depth - 1)) for key, one in items))
    return 0


def _bytes_of(tensor: torch.Tensor) -> Any:
    return tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b""
