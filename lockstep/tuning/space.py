"""What a study may try: the section ``tune`` of a recipe, checked against the settings it names."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lockstep.config.experiment import Experiment
from lockstep.config.recipe import explain
from lockstep.ground.errors import SettingError, nearest

_FIXED = ("training.profile", "training.device")  # where to train, not how
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
    """The space in a recipe. ``resolve(overrides)`` gives the experiment with them.

    Raises SettingError with every mistake, a line each: an unknown setting, a bound or a choice
    that the setting does not take, a setting that decides nothing.
    """
    content = yaml.safe_load(recipe.read_text()) or {}
    section = content.get("tune")
    where = "/".join(recipe.parts[-3:])
    if not isinstance(section, dict) or not section:
        raise SettingError(
            f"{where}: has no space to search; add a section `tune`, as "
            "tune: {training.lr: {low: 0.001, high: 0.1, log: true}}."
        )
    experiment = resolve([])
    types = {line.key: line.type for line in explain(experiment, {})}
    deciding = experiment.as_dict(bits_only=True)
    space: Space = {}
    problems = []
    for key, given in section.items():
        part, _, name = str(key).partition(".")
        if key not in types:
            problem = f"no such setting.{nearest(str(key), types)}"
        elif key in _FIXED or name not in deciding[part]:
            problem = "cannot be searched, as it does not say how to train"
        else:
            problem = _parsed(key, types[key], given, resolve, space)
        if problem:
            problems.append(f"{where}: tune: {key}: {problem}")
    if problems:
        raise SettingError("\n".join(problems))
    return space


def _parsed(key: str, kind: str, given: Any, resolve: Resolve, space: Space) -> str:
    """Put one entry into the space; what is wrong with it otherwise, or nothing."""
    wanted = "wanted {low, high} with log or step, or {choices}"
    if not isinstance(given, dict):
        return f"found {given!r}, {wanted}"
    values: list[Any] = []
    if set(given) == {"choices"}:
        values = given["choices"] if isinstance(given["choices"], list) else []
        if len(values) < 2:
            return "found less than two choices, wanted a list of them"
        texts = [json.dumps(v) if isinstance(v, list) else v for v in values]
        space[key] = Choice(tuple(texts))
    elif {"low", "high"} <= set(given) <= _RANGE:
        low, high = given["low"], given["high"]
        step, log = given.get("step"), given.get("log")
        numbers = [low, high, *([] if step is None else [step])]
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            return f"found {given!r}, wanted numbers (write 1.0e-5, not 1e-5)"
        if "power of two" in kind or not kind.startswith(("int", "float")):
            return f"takes {kind}, wanted choices"
        if not low < high or (log and (low <= 0 or step)) or not (step is None or step > 0):
            return f"found {given!r}, wanted low < high, step > 0, log with neither 0 nor step"
        values = [low, high]
        space[key] = Range(low, high, bool(log), step, kind.startswith("int"))
    else:
        return f"found {given!r}, {wanted}"
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
