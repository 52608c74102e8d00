"""The search space of a study: section ``tune`` of a recipe, checked against its settings."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep.config.experiment import Experiment
from lockstep.config.settings import NOT_TUNED, Setting, settings_of
from lockstep.ground import yaml_text
from lockstep.ground.errors import SettingError, nearest

_RANGE = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, in steps if ``step`` is given, evenly or by logarithm."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def has(self, value: Any) -> bool:
        """Whether it is one of them."""
        if not self.low <= value <= self.high:
            return False
        return self.step is None or abs((value - self.low) / self.step % 1) < 1e-9


@dataclass(frozen=True)
class Choice:
    """One of some values; a list stands as its text."""

    values: tuple[Any, ...]

    def has(self, value: Any) -> bool:
        """Whether it is one of them."""
        return value in self.values


Space = dict[str, Range | Choice]
Resolve = Callable[[list[str]], Experiment]


def read(recipe: Path, resolve: Resolve) -> Space:
    """Return the space in a recipe. ``resolve(overrides)`` gives the experiment with them.

    Raises SettingError with every mistake, a line each: an unknown setting, a bound or a choice
    that the setting does not take, a setting that decides nothing.
    """
    content = yaml_text.load(recipe.read_text()) or {}
    section = content.get("tune")
    where = "/".join(recipe.parts[-3:])
    if not isinstance(section, dict) or not section:
        raise SettingError(
            f"{where}: has no space to search; add a section `tune`, such as "
            "tune: {training.lr: {low: 0.001, high: 0.1, log: true}}."
        )
    settings = {
        f"{title}.{name}": setting
        for title, part in resolve([]).sections.items()
        for name, setting in settings_of(type(part)).items()
    }
    space: Space = {}
    problems = []
    for key, entry in section.items():
        if key not in settings:
            problem = f"no such setting.{nearest(str(key), settings)}"
        elif key in NOT_TUNED or not settings[key].bits:
            problem = "cannot be searched, as it does not say how to train"
        else:
            problem = _parsed(key, settings[key], entry, resolve, space)
        if problem:
            problems.append(f"{where}: tune: {key}: {problem}")
    if problems:
        raise SettingError("\n".join(problems))
    return space


def _parsed(key: str, setting: Setting, entry: Any, resolve: Resolve, space: Space) -> str:
    """Put one entry into the space; what is wrong with it otherwise, or nothing."""
    expected = f"found {entry!r}, expected {{low, high}} with log or step, or {{choices}}"
    if not isinstance(entry, dict):
        return expected
    values: list[Any] = []
    if set(entry) == {"choices"}:
        values = entry["choices"] if isinstance(entry["choices"], list) else []
        if len(values) < 2:
            return "found less than two choices, expected a list of them"
        texts = [json.dumps(v) if isinstance(v, list) else v for v in values]
        space[key] = Choice(tuple(texts))
    elif {"low", "high"} <= set(entry) <= _RANGE:
        low, high = entry["low"], entry["high"]
        step, log = entry.get("step"), entry.get("log")
        numbers = [low, high, *([] if step is None else [step])]
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            return f"found {entry!r}, expected numbers"
        if setting.power_of_two or setting.type not in (int, float):
            return f"takes {setting.expected}, expected choices"
        if not low < high or (log and (low <= 0 or step)) or not (step is None or step > 0):
            return f"found {entry!r}, expected low < high, step > 0, log with neither 0 nor step"
        values = [low, high]
        space[key] = Range(low, high, bool(log), step, setting.type is int)
    else:
        return expected
    problems = {_refused(resolve, override(key, value)) for value in values} - {""}
    return "; ".join(sorted(problems))


def _refused(resolve: Resolve, override: str) -> str:
    try:
        resolve([override])
    except SettingError as error:
        first = str(error).splitlines()[0]
        return first.removeprefix("override: ").partition(": ")[2] or first
    return ""


def override(key: str, value: Any) -> str:
    """``key=value``, as on the command line."""
    return f"{key}={json.dumps(value) if isinstance(value, list) else value}"


def overrides(values: Mapping[str, Any]) -> list[str]:
    """The overrides that make a trial of a recipe."""
    return [override(key, value) for key, value in values.items()]
