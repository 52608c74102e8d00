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
from lockstep.program import Batch, rows_of
from lockstep.run.caches import TORCHS, Caches
from lockstep.run.making import Setup
from lockstep.training.checkpoint import Snapshot
from lockstep.training.evaluation import evaluation_mode
from lockstep.training.loop import apply
from lockstep.training.optimizer import Own
from lockstep.training.parameters import FlatParameters
from lockstep.training.updates import Move

# Of the gradients of a whole and of its halves, by their norm. A rounding to bf16 is up to 2**-9.
_LARGEST_DIFFERENCE = {"float32": 1e-3, "bf16": 1e-2}
_MEAN_OF = 32  # examples, enough for that


def rehearse(setup: Setup, caches: Caches) -> "Inspection":
    """Compute shards twice and compare; return what looks on while the run trains.

    ``caches`` that were filled are emptied for a third time, in which a value that was drawn at
    first use shows.

    Raises ModelError with what breaks a law, in one line.
    """
    before, frozen = setup.training.snapshot(), _frozen(setup)
    try:
        states = [_attributes(setup)]
        passes, reached = [], set[str]()
        for order in (1, -1):
            passes.append(_fingerprints(setup, order, before.tensors["values"], reached))
            states.append(_attributes(setup))
        _refuse_replaced(setup)
        _refuse_moved(frozen, _frozen(setup))
        _refuse_moving(states[1], states[2])
        _refuse_without_gradient(setup, reached)
        _refuse_different(*passes)
        if caches.are_filled():
            caches.empty()
            again = _fingerprints(setup, -1, before.tensors["values"], reached)
            _refuse_different(passes[0], again)
        for move in setup.training.moves:
            _refuse_no_mean(setup, move)
        _refuse_other_steps(setup)
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
    """Finds parameters that some steps do not reach, as one of experts that data choose.

    Each look asks which parameters had a gradient of zeros alone in the last step. Only these are
    watched until the next look: a hook at each of all parameters costs a tenth of a small step.
    """

    def __init__(self, setup: Setup):
        self._training, self._workers = setup.training, setup.workers
        self._since, self._reached = 0, dict[str, set[int]]()
        self._hooks: list[Any] = []

    def refuse(self) -> None:
        """Raise ModelError if, since the last look, no worker reached a parameter in some step."""
        self._refuse_missed()
        for hook in self._hooks:
            hook.remove()
        self._since, self._reached, self._hooks = self._training.progress.step, {}, []
        flat, last = self._training.flat, self._training.moved_last()
        for name in last:
            if not flat.gradient[flat.slices([name])[0]].any():
                self._watch(name)

    def _watch(self, name: str) -> None:
        steps = self._reached.setdefault(name, set())
        self._hooks.append(
            self._training.flat.named[name].register_post_accumulate_grad_hook(
                lambda _: steps.add(self._training.progress.step)
            )
        )

    def _refuse_missed(self) -> None:
        steps = [
            step
            for step in range(self._since, self._training.progress.step)
            if all(step % move.every == 0 for move in self._training.moves)
        ]
        if not self._reached or not steps:
            return
        rows = np.array(
            [[step in reached for step in steps] for reached in self._reached.values()], np.float32
        )
        for name, row in zip(self._reached, self._workers.all_gather(rows), strict=True):
            if not row.all():
                raise ModelError(
                    f"{name}: no gradient reached it in step {steps[int(row.argmin())] + 1}, and "
                    "yet weight decay or momentum moved it; let the loss depend on it in every "
                    "step (+ 0 * parameter.sum())."
                )


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


def first_step(setup: Setup, beginning: Snapshot) -> str:
    """Return a digest of what the first shard of a run gives, from where the run begins.

    Another process finds the same one: another worker, or the one that resumes the run.
    """
    before, batches, found = setup.training.snapshot(), setup.batches, b""
    setup.training.restore(beginning)
    try:
        samples = len(batches.ids(0))
        shard = _chosen(samples, batches.shards)[0]
        for move in setup.training.moves:
            alone = move.gradient.alone(batches.shards)
            whole = range(batches.shards)
            alone.block = whole if move.gradient.represent else whole[shard : shard + 1]
            alone.compute(0, samples, [batches.at(0, one) for one in alone.block], False)
            found += move.gradient.flat.sums.cpu().numpy().tobytes()
    finally:
        setup.training.restore(before)
    return digest_of(found)


def refuse_other_process(setup: Setup, digest: str) -> None:
    """Raise EnvironmentMismatch if this worker's first step has other bits than the first's."""
    if setup.workers.broadcast_bytes(digest.encode()) != digest.encode():
        raise EnvironmentMismatch(
            f"worker {setup.workers.rank}: its first step has other bits than the first worker's; "
            "Model, loss and Preprocess must not depend on the process (os.getpid, the order of a "
            "set of objects), the time or the machine."
        )


Place = tuple[int, int, int]  # update, step and shard; -1 for all shards of a batch


def _fingerprints(
    setup: Setup, order: int, values: torch.Tensor, reached: set[str]
) -> dict[Place, tuple[int, int]]:
    """Fingerprints of batch and row by place; ``order`` is 1, or -1 for backwards.

    The parameters that a gradient reaches in the first step are added to ``reached``.
    """
    batches, flat = setup.batches, setup.training.flat
    buffers, counts = flat.buffers.clone(), [count.clone() for count in flat.counts]
    found = {}
    for number, move in enumerate(setup.training.moves):
        alone = move.gradient.alone(batches.shards)
        for step in sorted({0, batches.steps_per_epoch - 1}):
            ids = batches.ids(step)
            chosen = [-1] if move.gradient.represent else _chosen(len(ids), batches.shards)
            for shard in chosen[::order]:
                alone.block = range(batches.shards) if shard < 0 else range(shard, shard + 1)
                with home.readable_errors("Preprocess", _shape_of_raw(setup)):
                    parts = [batches.at(step, one) for one in alone.block]
                names = reached if step == 0 else set[str]()
                with (
                    home.readable_errors("loss or Model", _described(parts[-1])),
                    _small_batches(len(ids), batches.shards, step),
                    _noting_reached(flat, names),
                ):
                    outcome = alone.compute(step, len(ids), parts, False)
                row = xxhash.xxh3_64_intdigest(flat.sums.cpu().numpy().data)
                found[number, step, shard] = (outcome.batch, row)
                flat.buffers.copy_(buffers)
                for count, value in zip(flat.counts, counts, strict=True):
                    count.copy_(value)
    if not torch.equal(flat.values, values):
        moved = flat.values != values
        raise _moved_by_loss(_owner(setup, moved))
    return found


def _shape_of_raw(setup: Setup) -> str:
    inputs = setup.batches.split.inputs
    return f", for raw examples {inputs.dtype} (n, {', '.join(map(str, inputs.shape[1:]))})"


def _described(batch: Batch) -> str:
    """The types and shapes of a batch in words."""
    words = []
    for name, fields in batch._asdict().items():
        for key, tensor in fields.items() if isinstance(fields, dict) else [("", fields)]:
            kind = str(tensor.dtype).removeprefix("torch.")
            words.append(f"{name}{key and f'[{key}]'} {kind} {tuple(tensor.shape)}")
    return f", for {', '.join(words)}"


def _frozen(setup: Setup) -> dict[str, int]:
    frozen = setup.training.flat.frozen
    return {name: _fingerprint(parameter, 1) for name, parameter in frozen.items()}


def _refuse_moved(before: dict[str, int], after: dict[str, int]) -> None:
    if moved := [name for name in before if before[name] != after[name]]:
        raise _moved_by_loss(moved[0])


def _moved_by_loss(name: str) -> ModelError:
    return ModelError(
        f"loss: it changed the parameter {name}; parameters move once in a step, by the optimizer, "
        "and what follows them (a teacher, a target) moves in `after_step(model, step)`."
    )


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
            shards = [batches.at(0, shard) for shard in range(batches.shards)]
            for move in setup.training.moves:
                _gradient(move, [part for part in shards if rows_of(part.target)])
    if missing := [name for name in flat.named if name not in reached]:
        raise ModelError(
            f"{missing[0]}: no gradient reaches it in step 1, and yet weight decay or momentum "
            "would move it; set requires_grad=False, or let the loss depend on it."
        )


def _refuse_different(
    first: dict[Place, tuple[int, int]], second: dict[Place, tuple[int, int]]
) -> None:
    for place, (batch, row) in first.items():
        (update, step, shard), again = place, second[place]
        if (batch, row) == again:
            continue
        where, advice = "loss or Model", "torch's default generator, which is seeded"
        if update:
            where = f"updates[{update}] or Model"
        if batch != again[0]:
            where, advice = "Preprocess", "the generator that augment is given"
        cut = f"shard {shard}" if shard >= 0 else "the whole batch"
        raise ModelError(
            f"{where}: step {step + 1}, {cut} has other bits when it is computed again; "
            f"chance must come from {advice} for each step and shard, and nothing may be kept "
            "from one shard for another."
        )


def _refuse_other_steps(setup: Setup) -> None:
    """Take two steps twice, on one shard, where optimizer or ``after_step`` are the program's."""
    training, batch = setup.training, setup.batches.at(0, setup.batches.shards - 1)
    own = any(isinstance(move.optimizer, Own) for move in training.moves)
    if not own and training.after_step is None:
        return
    before, states, results = training.snapshot(), [], []
    for _ in range(2):
        training.restore(before)
        for step in range(2):
            for move in training.moves:
                part = move.gradient.alone()
                loss = part.compute(step, rows_of(batch.target), [batch], False).loss
                apply(training, move, setup.learning_rate(step), loss)
            if training.after_step:
                with home.readable_errors("after_step"):
                    training.after_step(step)
        tensors = training.snapshot().tensors
        results.append({name: _fingerprint(tensor, 1) for name, tensor in tensors.items()})
        states.append(_attributes(setup))
    training.restore(before)
    _refuse_moving(*states)
    if different := [name for name in results[0] if results[0][name] != results[1].get(name)]:
        raise ModelError(
            f"optimizer or after_step: {different[0]} has other bits when two steps are taken "
            "again; chance must come from torch's default generator, which is seeded for them."
        )


def _refuse_no_mean(setup: Setup, move: Move) -> None:
    """Compare the gradient of a few examples with the mean of those of its halves."""
    batches = setup.batches
    few = len(batches.ids(0)) < 2 * batches.shards
    if batches.shards == 1 or few or move.gradient.represent:
        return
    parts = [batches.at(0, shard) for shard in range(batches.shards)]
    alike = [part for part in parts if shape_of(part.inputs) == shape_of(parts[0].inputs)]
    everything = Batch(*(_joined(fields) for fields in zip(*alike, strict=True)))
    chosen = _of_many_targets(everything.target)
    half = len(chosen) // 2
    whole, *halves = (
        Batch(*(_rows(fields, rows) for fields in everything))
        for rows in (chosen, chosen[:half], chosen[half:])
    )
    with evaluation_mode(setup.model):  # no dropout, and no statistics of the batch
        try:
            one, two = _gradient(move, [whole]), _gradient(move, halves)
        except RuntimeError:  # layers without a gradient in evaluation, as recurrent ones on a GPU
            return
        difference = float((one - two).norm() / max(float(one.norm()), 1e-30))
        largest = _LARGEST_DIFFERENCE[setup.experiment.training.precision]
        if not (math.isfinite(difference) and difference > largest):
            return
        if not torch.equal(one, _gradient(move, [whole], first=1)):
            return  # chance in evaluation too: other examples would have other chance
    raise ModelError(
        f"loss: not the mean over its examples: the gradient of {len(chosen)} differs by "
        f"{difference:.1%} from that of two halves; return a value for each example (n,), or "
        "lockstep.model.Losses with what each counts (with class weights: F.cross_entropy(scores, "
        "labels, weight, reduction='none') and weight[labels])."
    )


def _joined(fields: Any) -> Any:
    if isinstance(fields[0], dict):
        return {name: torch.cat([one[name] for one in fields]) for name in fields[0]}
    return torch.cat(fields)


def _rows(fields: Any, rows: list[int]) -> Any:
    if isinstance(fields, dict):
        return {name: values[rows] for name, values in fields.items()}
    return fields[rows]


def _of_many_targets(target: Any) -> list[int]:
    """The places of a few examples, of as many targets as there are, sorted by target.

    So the halves have other targets, and a loss that weights them shows.
    """
    fields = target.values() if isinstance(target, dict) else [target]
    rows = [b"".join(one[i].numpy().tobytes() for one in fields) for i in range(rows_of(target))]
    before, nth = Counter[bytes](), []
    for row in rows:
        nth.append(before[row])
        before[row] += 1
    chosen = sorted(range(len(rows)), key=nth.__getitem__)[:_MEAN_OF]
    return sorted(chosen, key=rows.__getitem__)


def shape_of(inputs: Any) -> Any:
    """The shape of one example of a batch."""
    if isinstance(inputs, dict):
        return {name: tuple(values.shape[1:]) for name, values in inputs.items()}
    return tuple(inputs.shape[1:])


def _gradient(move: Move, shards: list[Batch], first: int = 0) -> torch.Tensor:
    """The gradient of these shards, with the chance of those from number ``first`` on."""
    alone = move.gradient.alone(len(shards))
    alone.block = range(first, first + len(shards))
    alone.compute(0, sum(rows_of(part.target) for part in shards), shards, False)
    return move.gradient.flat.gradient.clone()


# What a step may not leave changed: attributes of modules, of the preprocessing, of the project's
# own modules.


def _attributes(setup: Setup) -> dict[str, int]:
    """A fingerprint of each plain value that lives beside the model's parameters and buffers."""
    found: dict[str, int] = {}
    for name, module in setup.model.named_modules():
        if not type(module).__module__.startswith("torch."):
            found |= _values(f"{name or 'Model'}.", vars(module), TORCHS)
    found |= _values("Preprocess.", vars(setup.preprocess), set())
    for move in setup.training.moves:
        if isinstance(move.optimizer, Own):
            found |= _values("optimizer.", move.optimizer.attributes(), set())
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
