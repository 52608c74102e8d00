"""The updates of a step, as a program says them, over the parameters of its model."""

import fnmatch
import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lockstep.ground.errors import ModelError, nearest
from lockstep.program import Group, Update
from lockstep.training.distributed import ALONE, Workers
from lockstep.training.optimizer import ALL, Fused, Optimizer, Own, Part, by_axes
from lockstep.training.parameters import FlatParameters
from lockstep.training.precision import computed_in
from lockstep.training.shards import ShardedGradient

Make = Callable[[list[dict[str, Any]]], Any]


@dataclass(frozen=True)
class Move:
    """An update over a model's parameters: what forms its gradient, and what moves them."""

    gradient: ShardedGradient
    optimizer: Optimizer
    rate: float = 1.0
    every: int = 1


@dataclass(frozen=True)
class Rule:
    """The engine's own optimizer, where a program brings none: its name, rate and settings."""

    name: str
    rate: float
    decay: float
    momentum: float


class Plan:
    """Which update moves which parameters, and how; found before their numbers are laid out.

    Raises ModelError for a pattern that fits no parameter, for a parameter that nothing moves, and
    for steps without an update.
    """

    def __init__(self, model: nn.Module, updates: Sequence[Update], groups: Sequence[Group]):
        self.model, self.updates = model, _checked(updates, Update, "updates")
        self.groups = _checked(groups, Group, "groups") if groups else []
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._moved = [
            _matching(self.named, one.parameters, f"updates[{i}]")
            for i, one in enumerate(self.updates)
        ]
        self._grouped = [
            _matching(self.named, one.parameters, f"groups[{i}]")
            for i, one in enumerate(self.groups)
        ]
        if missing := [n for n in self.named if not any(n in moved for moved in self._moved)]:
            raise ModelError(
                f"{missing[0]}: no update moves it; name it in one of `updates`, or set "
                "requires_grad=False."
            )
        if all(one.every != 1 for one in self.updates):
            raise ModelError("updates: none happens in each step, expected one with every=1.")

    def key(self, name: str) -> tuple[tuple[int, ...], int]:
        """Return what orders a parameter among the others, so that equals are neighbours."""
        return (
            tuple(i for i, moved in enumerate(self._moved) if name in moved),
            self._group(name),
        )

    def _group(self, name: str) -> int:
        """The number of the first group that names a parameter; after the last, if none does."""
        numbers = (i for i, grouped in enumerate(self._grouped) if name in grouped)
        return next(numbers, len(self.groups))

    def moves(
        self,
        flat: FlatParameters,
        rule: Rule,
        make: Make | None,
        reseed: Callable[[int, int, int], None],
        *,
        shards: int,
        workers: Workers = ALONE,
        precision: str = "float32",
    ) -> list[Move]:
        """Return the moves of a step; ``reseed(update, step, shard)`` seeds all generators."""
        computed = functools.partial(computed_in, precision, flat.values.device.type)
        return [
            Move(
                ShardedGradient(
                    self.model,
                    flat,
                    computed(update.loss),
                    lambda step, shard, number=number: reseed(number, step, shard),  # type: ignore[misc]
                    shards=shards,
                    workers=workers,
                    represent=computed(update.represent) if update.represent else None,
                    moves=None if len(moved) == len(self.named) else frozenset(moved),
                ),
                self._optimizer(flat, moved, rule, update.optimizer or make, update.rate),
                update.rate,
                update.every,
            )
            for number, (update, moved) in enumerate(zip(self.updates, self._moved, strict=True))
        ]

    def _optimizer(
        self, flat: FlatParameters, moved: set[str], rule: Rule, make: Make | None, rate: float
    ) -> Optimizer:
        parts: list[Part] = []
        for number, group in enumerate([*self.groups, ALL]):
            named = {
                name: parameter
                for name, parameter in flat.named.items()
                if name in moved and self._group(name) == number
            }
            parts += by_axes(named, rule.decay if group.decay is None else group.decay, group)
        if make:
            return Own(flat, parts, make, rule.rate * rate)
        return Fused(flat, parts, name=rule.name, momentum=rule.momentum)


def _checked(items: Any, kind: type, name: str) -> list[Any]:
    try:
        listed = list(items)
    except TypeError:
        listed = [None]
    if not listed or not all(isinstance(one, kind) for one in listed):
        raise ModelError(
            f"{name}: returned {items!r:.80}, expected a list of lockstep.model.{kind.__name__}."
        )
    return listed


def _matching(named: Collection[str], patterns: str | Sequence[str], place: str) -> set[str]:
    """The names of parameters that patterns fit. Raises ModelError for one that fits none."""
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        fitting = {name for name in named if fnmatch.fnmatchcase(name, pattern)}
        if named and not fitting:
            raise ModelError(
                f"{place}: {pattern!r} fits no trained parameter.{nearest(pattern, named)} "
                f"(there are {', '.join(list(named)[:8])})"
            )
        found |= fitting
    return found
