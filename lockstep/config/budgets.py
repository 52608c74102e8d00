"""Budgets: what a run must reach to be accepted, as a recipe or a command states it."""

import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lockstep.ground.errors import SettingError, nearest

# What can be bounded besides the metrics of a run, which are its program's, and what it is.
MEASURES = {
    "size_mb": "size of weights.safetensors in megabytes of 1,000,000 bytes",
    "latency_ms": "median milliseconds to predict one example of the test split, one thread",
}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
# A metric of the receipt, such as test.loss. Which ones there are is known when a run begins.
METRIC = r"(test|validation)\.[A-Za-z_]\w*"
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
    """Parse a measure and a bound such as ``">= 0.92"``; return a budget, or what is wrong.

    The caller adds where the measure is written.
    """
    if measure not in MEASURES and not is_metric(measure):
        there_are = f"test.METRIC, validation.METRIC, {', '.join(MEASURES)}"
        return f"no such measure.{nearest(measure, MEASURES)} (there are {there_are})"
    parts = _BOUND.fullmatch(text) if isinstance(text, str) else None
    try:
        bound = float(parts[2]) if parts else math.nan
    except ValueError:
        bound = math.nan
    if parts is None or not math.isfinite(bound):
        return f"found {text!r}, expected a bound such as '>= 0.92' or '<= 5'"
    return Budget(measure, parts[1], bound)


def is_metric(measure: str) -> bool:
    """Return whether a measure is a metric of a split by its name, as ``test.loss``."""
    return re.fullmatch(METRIC, measure, re.ASCII) is not None


def described(measure: str) -> str:
    """Return what a measure is, in a few words."""
    split, _, metric = measure.partition(".")
    return MEASURES.get(measure, f"{metric} on the {split} split, as in the receipt")


def refuse_unknown(measures: Iterable[str], names: Iterable[str]) -> None:
    """Raise SettingError if one of the measures is a metric that is not among a run's names."""
    names = list(names)
    for measure in measures:
        split, _, metric = measure.partition(".")
        if measure not in MEASURES and metric not in names:
            there_are = ", ".join([f"{split}.{name}" for name in names] + list(MEASURES))
            hint = nearest(metric, names).replace("Did you mean ", f"Did you mean {split}.")
            raise SettingError(f"accept.{measure}: no such measure.{hint} (there are {there_are})")
