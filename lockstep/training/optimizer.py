"""Update rules and learning-rate schedules."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import nn

from lockstep.ground.digests import canonical_json
from lockstep.ground.errors import ModelError
from lockstep.program import Group
from lockstep.training.distributed import Workers
from lockstep.training.parameters import FlatParameters

ALL = Group("*")
_GROUP = "group-"  # begins the names of tensors that a group has
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
Tensors = dict[str, torch.Tensor]
State = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Parameters that learn alike: those of a group that decay, or those that do not."""

    names: tuple[str, ...]
    decay: float
    group: Group


def by_axes(named: dict[str, nn.Parameter], decay: float, group: Group = ALL) -> list[Part]:
    """Return the parts of a group: parameters with two or more axes decay, others do not."""
    decayed = tuple(name for name, parameter in named.items() if parameter.dim() >= 2)
    others = tuple(name for name in named if name not in decayed)
    pairs = ((decayed, decay), (others, 0.0))
    return [Part(names, weight, group) for names, weight in pairs if names]


class Optimizer(Protocol):
    """Moves the parameters of its parts by the gradient that stands beside them."""

    parts: Sequence[Part]

    def step(self, rate: float, step: int) -> None:
        """Move the parameters; parts that begin later stay as they are."""

    def snapshot(self) -> tuple[Tensors, State]:
        """Return what it keeps between steps: its tensors, and the rest as JSON."""

    def restore(self, tensors: Tensors, state: State) -> None:
        """Bring back what a snapshot has."""

    def broadcast(self, workers: Workers) -> None:
        """Give all workers the state of the first."""


class Fused:
    """Adam, AdamW (decoupled decay) or SGD with Nesterov momentum, by torch's fused kernels.

    The same bits as ``torch.optim`` with ``fused=True``, whose kernels these are, without what that
    class brings along: importing torch's compiler (0.7 s) and hooks at every step. Fused, because
    the plain rules take a square root that is not correctly rounded on some CPUs (MKL's), so that
    every step of theirs depends on the CPU.
    """

    def __init__(self, flat: FlatParameters, parts: Sequence[Part], *, name: str, momentum: float):
        self.flat, self.name, self.momentum, self.parts = flat, name, momentum, parts
        self.state = ("mean", "square") if name != "sgd" else ("momentum",) if momentum else ()
        self._slices = [(part, one) for part in parts for one in flat.slices(part.names)]
        size = sum(one.stop - one.start for _, one in self._slices)
        self.tensors = {key: flat.values.new_zeros(size) for key in self.state}
        self.tensors["steps"] = flat.values.new_zeros(len(self._slices))

    def step(self, rate: float, step: int) -> None:
        """Update the parameters from the gradient that stands beside them."""
        update, start = self._sgd if self.name == "sgd" else self._adam, 0
        for number, (part, one) in enumerate(self._slices):
            kept = slice(start, start := start + one.stop - one.start)
            if step < part.group.start:
                continue
            steps = self.tensors["steps"][number]
            steps += 1
            update(
                [self.flat.values[one]],
                [self.flat.gradient[one]],
                [[self.tensors[key][kept]] for key in self.state],
                steps,
                rate * part.group.rate if part.group.rate != 1.0 else rate,
                part.decay,
            )

    def snapshot(self) -> tuple[Tensors, State]:
        """Return what it keeps between steps."""
        return {name: tensor.clone() for name, tensor in self.tensors.items()}, {}

    def restore(self, tensors: Tensors, state: State) -> None:  # noqa: ARG002
        """Bring back what a snapshot has."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    def broadcast(self, workers: Workers) -> None:
        """Give all workers the state of the first."""
        workers.broadcast(*self.tensors.values())

    def _sgd(
        self,
        values: list[torch.Tensor],
        gradient: list[torch.Tensor],
        state: list[list[torch.Tensor]],
        steps: torch.Tensor,  # noqa: ARG002
        rate: float,
        decay: float,
    ) -> None:
        torch._fused_sgd_(
            values,
            gradient,
            state[0] if state else [],
            lr=rate,
            weight_decay=decay,
            momentum=self.momentum,
            dampening=0.0,
            nesterov=self.momentum > 0,
            maximize=False,
            is_first_step=False,
        )

    def _adam(
        self,
        values: list[torch.Tensor],
        gradient: list[torch.Tensor],
        state: list[list[torch.Tensor]],
        steps: torch.Tensor,
        rate: float,
        decay: float,
    ) -> None:
        rule = torch._fused_adamw_ if self.name == "adamw" else torch._fused_adam_
        rule(
            values,
            gradient,
            state[0],
            state[1],
            [],
            [steps],
            lr=rate,
            beta1=_BETA1,
            beta2=_BETA2,
            eps=_EPSILON,
            weight_decay=decay,
            amsgrad=False,
            maximize=False,
        )


class Own:
    """A ``torch.optim.Optimizer`` of the program's: torch's own or another one.

    Its state is saved and resumed: tensors and plain values for each parameter, and in its groups.
    What it keeps elsewhere, or in lists, is refused by name, as it would be lost.
    """

    def __init__(
        self,
        flat: FlatParameters,
        parts: Sequence[Part],
        make: Callable[[list[dict[str, Any]]], Any],
        rate: float,
    ):
        self.flat, self.parts = flat, parts
        self._names = {id(flat.named[name]): name for part in parts for name in part.names}
        self.inner = make(
            [
                {
                    "params": [flat.named[name] for name in part.names],
                    "lr": rate * part.group.rate,
                    "weight_decay": part.decay,
                    "factor": part.group.rate,
                }
                for part in parts
            ]
        )
        if not isinstance(self.inner, torch.optim.Optimizer):
            raise ModelError(
                f"optimizer: returned {type(self.inner).__name__}, expected a "
                "torch.optim.Optimizer made of the groups that it is given."
            )
        moved = {id(p) for group in self.inner.param_groups for p in group["params"]}
        if missing := [name for known, name in self._names.items() if known not in moved]:
            raise ModelError(
                f"optimizer: {missing[0]} is in none of its groups; make it of all groups that it "
                "is given, or set requires_grad=False."
            )

    def step(self, rate: float, step: int) -> None:
        """Update the parameters from the gradient that stands beside them."""
        for group in self.inner.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        for part in self.parts:
            if step < part.group.start:
                for name in part.names:
                    self.flat.named[name].grad = None
        try:
            self.inner.step()
        except TypeError as error:
            if "closure" not in str(error):
                raise
            kind = type(self.inner).__name__
            raise ModelError(
                f"optimizer: {kind} computes the loss again within a step, which no update can "
                "do; choose one whose step() takes no closure."
            ) from error
        finally:
            self.flat.attach()

    def snapshot(self) -> tuple[Tensors, State]:
        """Return what it keeps between steps. Raises ModelError for what cannot be saved."""
        tensors: Tensors = {}
        plain: dict[str, dict[str, Any]] = {}
        for parameter, values in self.inner.state.items():
            if (name := self._names.get(id(parameter))) is None:
                raise _not_saved(type(self.inner).__name__, str(parameter))
            for key, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}/{key}"] = value.detach().clone()
                elif _is_plain(value):
                    plain.setdefault(name, {})[key] = value
                else:
                    raise _not_saved(type(self.inner).__name__, f"state[{key!r}]")
        groups: list[dict[str, Any]] = []
        for number, group in enumerate(self.inner.param_groups):
            groups.append({key: group[key] for key in group if _is_plain(group[key])})
            kept = {key: value for key, value in group.items() if isinstance(value, torch.Tensor)}
            tensors |= {f"{_GROUP}{number}/{key}": value.clone() for key, value in kept.items()}
        return tensors, {"state": plain, "groups": groups}

    def restore(self, tensors: Tensors, state: State) -> None:
        """Bring back what a snapshot has."""
        self.inner.state.clear()
        for name, values in state["state"].items():
            self.inner.state[self.flat.named[name]].update(values)
        for group, values in zip(self.inner.param_groups, state["groups"], strict=True):
            group.update(values)
        for place, tensor in tensors.items():
            name, _, key = place.rpartition("/")
            if name.startswith(_GROUP):
                self.inner.param_groups[int(name.removeprefix(_GROUP))][key] = tensor.clone()
                continue
            parameter, kept = self.flat.named[name], tensor.clone()
            if tensor.shape == parameter.shape:  # as torch makes it, in the parameter's layout
                kept = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)
            self.inner.state[parameter][key] = kept.copy_(tensor)

    def broadcast(self, workers: Workers) -> None:
        """Give all workers the state of the first."""
        tensors, state = self.snapshot()
        said = workers.broadcast_bytes(canonical_json(state))
        content = workers.broadcast_bytes(safetensors.torch.save(_contiguous(tensors)))
        if not workers.first:
            self.restore(safetensors.torch.load(content), json.loads(said))

    def attributes(self) -> dict[str, Any]:
        """Return what it keeps where no checkpoint holds it: attributes, lists in its groups."""
        torchs = set(vars(torch.optim.Optimizer([nn.Parameter(torch.zeros(1))], {})))
        attributes = {name: kept for name, kept in vars(self.inner).items() if name not in torchs}
        for number, group in enumerate(self.inner.param_groups):
            attributes |= {
                f"param_groups[{number}][{key!r}]": value
                for key, value in group.items()
                if key != "params" and not _is_plain(value) and not isinstance(value, torch.Tensor)
            }
        return attributes


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | None)


def _contiguous(tensors: Tensors) -> Tensors:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _not_saved(optimizer: str, place: str) -> ModelError:
    return ModelError(
        f"optimizer: {optimizer} keeps {place}, which no checkpoint can hold; keep tensors, "
        "numbers and texts in self.state[parameter]."
    )


def learning_rate(
    *, peak: float, schedule: str, warmup: float, steps: int
) -> Callable[[int], float]:
    """The learning rate as a function of the step: a linear warm-up, then constant or down to 0.

    Rounded to 12 digits, so that another C library's cosine cannot change a bit.
    """
    rising = round(warmup * steps)

    def rate(step: int) -> float:
        share = (step - rising) / max(steps - rising, 1)
        if step < rising:
            height = (step + 1) / (rising + 1)
        elif schedule == "cosine":
            height = (1 + math.cos(math.pi * share)) / 2
        else:
            height = 1 - share if schedule == "linear" else 1.0
        return _rounded(peak * height)

    return rate


def rate_by_factor(peak: float, factor: Callable[[int], float]) -> Callable[[int], float]:
    """The learning rate by a program's own schedule, a factor for each step."""

    def rate(step: int) -> float:
        height = factor(step)
        if not isinstance(height, int | float) or not math.isfinite(height) or height < 0:
            raise ModelError(
                f"schedule: returned {height!r} for step {step}, expected a factor of training.lr, "
                "a number from 0."
            )
        return _rounded(peak * height)

    return rate


def factors(make: Callable[[Any], Any], steps: int) -> Callable[[int], float]:
    """Return the factors of the rate that one of torch's schedulers gives, step by step.

    ``make(optimizer)`` makes the scheduler of an optimizer whose rate is 1.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates.__getitem__


def _rounded(rate: float) -> float:
    return float(f"{rate:.12g}")
