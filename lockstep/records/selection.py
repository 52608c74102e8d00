"""Choosing among many runs: by conditions on what is recorded of them, and in which order."""

import json
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lockstep.ground.errors import RunError, nearest
from lockstep.records import script
from lockstep.records.differences import flat
from lockstep.records.receipt import metrics_of
from lockstep.records.run import Run, Summary
from lockstep.records.script import Command

COLUMNS = ("model", "recipe", "seed", "state")  # of the listing itself
_METRIC = re.compile(r"(test|validation)\.\w+")
STATES = ("finished", "running", "stopped", "failed", "altered", "newer")
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([\w.]+)\s*(>=|<=|==|!=|>|<)\s*(.*?)\s*", re.DOTALL)


class Record:
    """What is recorded of a run, by name; each of its files is read when it is asked for."""

    def __init__(self, run: Run):
        self.run = run

    @cached_property
    def summary(self) -> Summary:
        """The line of the listing."""
        return self.run.summary()

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """The metrics of the receipt, none of a run that is altered or not finished."""
        try:
            script = self.run.script
            return {**(script.metrics if script else metrics_of(self.run.receipt))}
        except RunError:
            return {}

    @cached_property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide bits, none of a run in which they are not the identity's."""
        try:
            if self.run.script:
                return _of_command(self.run.script.named["command"])
            return flat(self.run.settings)
        except RunError:
            return {}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings; twenty times as slow to read as those that decide bits."""
        try:
            return flat(self.run.experiment())
        except RunError:
            return {}

    def value(self, name: str) -> Any:
        """What is recorded under a name, None if nothing is."""
        if name == "state":
            return self.summary["state"].split()[0]
        if name in COLUMNS:
            return dict(self.summary)[name]
        if name in self.metrics:
            return self.metrics[name]
        if "." not in name or name.split(".")[0] in ("test", "validation"):
            return None
        return self.deciding[name] if name in self.deciding else self.settings.get(name)


def _of_command(command: Command) -> dict[str, Any]:
    """The settings of a script: its threads, and the options of its command line."""
    options = {f"option.{name}": value for name, value in script.options(command).items()}
    return {"script.threads": command["threads"], **options}


@dataclass(frozen=True)
class Condition:
    """What a run must have to be chosen."""

    name: str
    operator: str
    wanted: Any
    text: str

    def holds(self, record: Record) -> bool:
        """Whether it does; a run that has no such value does not.

        Raises RunError if values are to be put in order that have none.
        """
        if (found := record.value(self.name)) is None:
            return False
        number = _is_number(found)
        if self.operator in _ORDERS:
            if not number:
                raise RunError(
                    f"--where {self.name}{self.operator}{self.text}: found {found!r} in "
                    f"{record.run.name}, which has no order; expected == or !="
                )
            return _ORDERS[self.operator](found, self.wanted)
        text = isinstance(found, str) and found == self.text
        same = text or (found == self.wanted and number == _is_number(self.wanted))
        return same == (self.operator == "==")


def condition(given: str) -> Condition:
    """A condition from ``NAME OPERATOR VALUE``. Raises RunError if it is none."""
    if not (found := _CONDITION.fullmatch(given)):
        raise RunError(
            f"--where {given}: found no condition, expected a name, one of > >= < <= == != and a "
            "value, such as test.accuracy>0.92"
        )
    name, sign, text = found.groups()
    wanted = _value(text)
    if sign in _ORDERS and not (_is_number(wanted) and math.isfinite(wanted)):
        raise RunError(f"--where {given}: found {text!r}, expected a number after {sign}")
    if name == "state" and wanted not in STATES:
        hint = f"{nearest(text, STATES)} (there are {', '.join(STATES)})"
        raise RunError(f"--where {given}: no such state.{hint}")
    return Condition(name, sign, wanted, str(wanted) if isinstance(wanted, str) else text)


def _value(text: str) -> Any:
    """A value as JSON has it, or a number as Python does, or the text itself."""
    for read in (json.loads, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def choose(
    runs: Iterable[Run],
    conditions: Iterable[Condition] = (),
    order: str = "",
    known: Iterable[str] = (),
) -> list[Record]:
    """The runs that meet all conditions, sorted by a name's values; downwards after a ``-``.

    Runs without the value come last; equal ones stay as they were. ``known`` are names of settings
    besides those of the runs themselves. Raises RunError, with the nearest right name, for a name
    that is neither in them nor in any run.
    """
    records, conditions = [Record(run) for run in runs], list(conditions)
    key = order.removeprefix("-")
    names = [one.name for one in conditions] + ([key] if order else [])
    _refuse_unknown(names, records, {*COLUMNS, *known})
    found = [record for record in records if all(one.holds(record) for one in conditions)]
    if not order:
        return found
    having = [record for record in found if record.value(key) is not None]
    without = [record for record in found if record.value(key) is None]
    numbers = all(_is_number(record.value(key)) for record in having)
    down = order.startswith("-")
    having.sort(key=lambda one: _place(one.value(key), numbers), reverse=down)
    return having + without


def _place(value: Any, numbers: bool) -> Any:
    return value if numbers else str(value)


def _refuse_unknown(names: list[str], records: list[Record], known: set[str]) -> None:
    for name in names:
        if name in known or any(
            name in record.metrics or record.value(name) is not None for record in records
        ):
            continue
        metrics = dict.fromkeys(name for record in records for name in record.metrics)
        if not metrics and _METRIC.fullmatch(name):
            continue  # no run is finished, so nobody knows which metrics there will be
        everything = known.union(metrics, *(record.deciding.keys() for record in records[:100]))
        namesakes = sorted(right for right in everything if right.endswith(f".{name}"))
        hint = f" Did you mean {namesakes[0]}?" if namesakes else nearest(name, everything)
        raise RunError(
            f"{name}: no such metric or setting.{hint} (the names are "
            f"{', '.join((*COLUMNS, *metrics))} and those that `invoke config` lists)"
        )
