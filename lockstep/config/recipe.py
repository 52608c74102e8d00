"""Reads a recipe and overrides into an experiment, and reports every mistake in them at once."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from lockstep.config.budgets import MEASURES, budget
from lockstep.config.experiment import Data, Experiment, Training
from lockstep.ground.errors import SettingError, nearest


@dataclass(frozen=True)
class Source:
    """A value as someone wrote it, and where."""

    value: Any
    place: str


def resolve(
    model: str,
    recipe: Path,
    config: type[Any],
    *,
    seed: int = 0,
    overrides: Iterable[str] = (),
) -> tuple[Experiment, dict[str, Source]]:
    """The experiment of a recipe with ``key=value`` overrides, and where each value came from.

    ``config`` is the model's Config. Raises SettingError with every mistake of recipe and
    overrides, one line each: where it stands, what was found, what is allowed, the nearest name.
    """
    from omegaconf import OmegaConf

    classes: dict[str, type[Any]] = {"data": Data, "model": config, "training": Training}
    written, problems = _written(recipe, overrides, {*classes, "accept"})
    if not 0 <= seed < 2**63:
        problems.append(f"seed: found {seed}, wanted int from 0 to {2**63 - 1}")
    sections = {name: OmegaConf.structured(kind) for name, kind in classes.items()}
    for section in sections.values():
        OmegaConf.set_readonly(section, False)
    known = {
        f"{name}.{item.name}" for name in classes for item in dataclasses.fields(classes[name])
    }
    accept: dict[str, str] = {}
    for key, source in written.items():
        section, _, name = key.partition(".")
        if section == "accept":
            stated = budget(name, source.value) if name else _NO_BUDGET.format(source.value)
            if isinstance(stated, str):
                problems.append(f"{source.place}: {key}: {stated}")
            else:
                accept[name] = stated.wanted
        elif key not in known:
            namesakes = sorted(right for right in known if right.endswith(f".{name or key}"))
            budgets = (f"accept.{measure}" for measure in MEASURES)
            hint = nearest(key, {*known, *budgets}) or nearest(name, known)
            hint = f" Did you mean {namesakes[0]}?" if namesakes else hint
            listing = f"(python -m lockstep config {model} lists all)"
            problems.append(f"{source.place}: {key}: no such setting.{hint} {listing}")
        elif problem := _set(sections[section], name, source.value, classes[section]):
            problems.append(f"{source.place}: {key}: {problem}")
    values: dict[str, Any] = {}
    for name, section in sections.items():
        try:
            values[name] = OmegaConf.to_object(section)
        except ValueError as error:  # from the class itself: settings that do not go together
            problems.append(str(error))
    if problems:
        raise SettingError("\n".join(problems))
    data, settings, training = (values[name] for name in classes)
    return Experiment(model, recipe.stem, seed, data, settings, training, accept), written


_NO_BUDGET = "found {!r}, wanted measures with a bound each, such as test.accuracy: '>= 0.92'"


def _written(
    recipe: Path, overrides: Iterable[str], sections: set[str]
) -> tuple[dict[str, Source], list[str]]:
    """What a recipe and the overrides say, by dotted key, and what in them is no setting at all."""
    written: dict[str, Source] = {}
    problems: list[str] = []
    try:
        content = yaml.safe_load(recipe.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"{recipe}: not readable as YAML: {reason}; correct it.") from error
    if not isinstance(content, dict):
        raise SettingError(
            f"{recipe}: holds {type(content).__name__}, wanted sections of settings."
        )
    content.pop("tune", None)  # what a study may try; lockstep.tuning reads it
    for section, values in content.items():
        if isinstance(values, dict):
            for name, value in values.items():
                written[f"{section}.{name}"] = Source(value, _place(recipe))
        elif values is not None or section not in sections:  # an empty section sets nothing
            written[str(section)] = Source(values, _place(recipe))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            problems.append(f"{override}: found no '=', wanted key=value, e.g. training.epochs=5")
            continue
        written[key.strip()] = Source(read_value(text), "override")
    return written, problems


def read_value(text: str) -> Any:
    """What an override says: a value as YAML has it, or else the text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _place(recipe: Path) -> str:
    return "/".join(recipe.parts[-3:])


def _set(section: Any, name: str, value: Any, kind: type[Any]) -> str:
    """Put a value into a section; what is wrong with it otherwise, or nothing."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    item = next(item for item in dataclasses.fields(kind) if item.name == name)
    wanted = f"{_type_name(kind, name)}{_allowed(item)}"
    found = f"found {value!r}, wanted {wanted}"
    if value is None or isinstance(value, bool) != (_type_name(kind, name) == "bool"):
        return found
    if "${" in str(value) or "???" in str(value):  # OmegaConf's own words, no values
        return found
    try:
        OmegaConf.update(section, name, value)  # takes 1e-3, which YAML reads as text, for a float
        value = OmegaConf.to_object(section[name]) if isinstance(value, list) else section[name]
    except OmegaConfBaseException:
        return found
    return "" if _is_allowed(item, value) else found


def _is_allowed(item: Any, value: Any) -> bool:
    rule = item.metadata
    low, high, choices = rule.get("low"), rule.get("high"), rule.get("choices")
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, list | dict):
            return False
        if low is not None and not number >= low:
            return False
        if high is not None and not number <= high:
            return False
        if isinstance(number, float) and number in (float("inf"), float("-inf")):
            return False
        if choices and number not in choices:
            return False
        if rule.get("power_of_two") and number & (number - 1):
            return False
    return True


def _allowed(item: Any) -> str:
    rule = item.metadata
    if rule.get("choices"):
        return " out of " + ", ".join(rule["choices"])
    text = ", a power of two" if rule.get("power_of_two") else ""
    if rule.get("low") is not None and rule.get("high") is not None:
        return f"{text} from {rule['low']:g} to {rule['high']:g}"
    if rule.get("low") is not None:
        return f"{text}, at least {rule['low']:g}"
    return text


def _type_name(kind: type[Any], name: str) -> str:
    hint = get_type_hints(kind)[name]
    return str(hint) if getattr(hint, "__args__", None) else hint.__name__


@dataclass(frozen=True)
class Explained:
    """One line of ``invoke config``."""

    key: str
    value: Any
    type: str
    source: str
    help: str


def explain(experiment: Experiment, written: dict[str, Source]) -> list[Explained]:
    """Every setting and budget with its value, type, where it came from and one line of help."""
    parts = {"data": experiment.data, "model": experiment.settings, "training": experiment.training}
    settings = [
        Explained(
            key := f"{section}.{item.name}",
            getattr(part, item.name),
            _type_name(type(part), item.name) + _allowed(item),
            written[key].place if key in written else "default",
            item.metadata.get("help", ""),
        )
        for section, part in parts.items()
        for item in dataclasses.fields(part)
    ]
    budgets = [
        Explained(key, bound, "bound", written[key].place, MEASURES[name])
        for name, bound in experiment.accept.items()
        if (key := f"accept.{name}") in written
    ]
    return settings + budgets
