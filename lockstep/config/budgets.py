"""Budgets: what a run must reach to be accepted, as a recipe or a command states it."""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from lockstep.ground.errors import nearest

# What can be bounded, and what it is.
MEASURES = {
    **{
        f"{split}.{metric}": f"{metric} on the {split} split, as in the receipt"
        for split in ("test", "validation")
        for metric in ("accuracy", "f1", "loss")
    },
    "size_mb": "size of weights.safetensors in megabytes of 1,000,000 bytes",
    "latency_ms": "median milliseconds to predict one example of the test split, one thread",
}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_BOUND = re.compile(r"\s*(>=|<=|>|<)\s*(\S+)\s*")


@dataclass(frozen=True)
class Budget:
    """A bound that one measure of a run must keep."""

    measure: str
    operator: str
    bound: float

    @property
    def condition(self) -> str:
        """The bound for people: ``>= 0.92``."""
        return f"{self.operator} {self.bound:.15g}"

    def met(self, found: float) -> bool:
        """Whether a value keeps it."""
        return _COMPARE[self.operator](found, self.bound)


def budget(measure: str, text: object) -> Budget | str:
    """Return the budget that a measure and a text such as ``">= 0.92"`` state.

    Or what is wrong with them, in words, without the measure's place, which the caller knows.
    """
    if measure not in MEASURES:
        return f"no such measure.{nearest(measure, MEASURES)} (there are {', '.join(MEASURES)})"
    parts = _BOUND.fullmatch(text) if isinstance(text, str) else None
    try:
        bound = float(parts[2]) if parts else math.nan
    except ValueError:
        bound = math.nan
    if parts is None or not math.isfinite(bound):
        return f"found {text!r}, expected a bound such as '>= 0.92' or '<= 5'"
    return Budget(measure, parts[1], bound)
