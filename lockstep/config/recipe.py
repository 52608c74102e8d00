"""Reads a recipe and overrides into an experiment, and reports every mistake in them at once."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lockstep.config.budgets import MEASURES, budget, described
from lockstep.config.experiment import Data, Experiment, Start, Training
from lockstep.config.settings import settings_of
from lockstep.ground import yaml_text
from lockstep.ground.errors import SettingError, nearest

_NO_BUDGET = "found {!r}, expected measures with a bound each, such as test.accuracy: '>= 0.92'"


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
    """Return the experiment of a recipe with ``key=value`` overrides, and the source of each value.

    ``config`` is the model's Config. Raises SettingError with every mistake of recipe and
    overrides, one line each: where it stands, what was found, what is expected, the nearest name.
    """
    classes: dict[str, type[Any]] = {
        "data": Data,
        "model": config,
        "training": Training,
        "start": Start,
    }
    settings = {section: settings_of(kind) for section, kind in classes.items()}
    known = [f"{section}.{name}" for section in settings for name in settings[section]]
    values = {
        section: {name: setting.default for name, setting in declared.items()}
        for section, declared in settings.items()
    }
    accept: dict[str, str] = {}
    written, problems = _written(recipe, overrides, {*classes, "accept"})
    if not 0 <= seed < 2**63:
        problems.append(f"seed: found {seed}, expected int from 0 to {2**63 - 1}")
    for key, source in written.items():
        section, _, name = key.partition(".")
        problem = ""
        if section == "accept":
            bound = budget(name, source.value) if name else _NO_BUDGET.format(source.value)
            if isinstance(bound, str):
                problem = bound
            else:
                accept[name] = bound.condition
        elif key in known:
            try:
                values[section][name] = settings[section][name].convert(source.value)
            except ValueError as error:
                problem = str(error)
        else:
            listing = f"(python -m lockstep config {model} lists all)"
            problem = f"no such setting.{_hint(key, known)} {listing}"
        if problem:
            problems.append(f"{source.place}: {key}: {problem}")
    parts: dict[str, Any] = {}
    for section, kind in classes.items():
        try:
            parts[section] = kind(**values[section])
        except ValueError as error:  # from the class itself: settings that do not go together
            problems.append(str(error))
    if problems:
        raise SettingError("\n".join(problems))
    data, own, training, start = (parts[section] for section in classes)
    return Experiment(model, recipe.stem, seed, data, own, training, accept, start), written


def _hint(key: str, known: list[str]) -> str:
    """The setting that an unknown key may mean: one of another section, or one spelt alike."""
    name = key.partition(".")[2]
    namesakes = sorted(right for right in known if right.endswith(f".{name or key}"))
    if namesakes:
        return f" Did you mean {namesakes[0]}?"
    budgets = [f"accept.{measure}" for measure in MEASURES]
    return nearest(key, [*known, *budgets]) or nearest(name, known)


def _written(
    recipe: Path, overrides: Iterable[str], sections: set[str]
) -> tuple[dict[str, Source], list[str]]:
    """What a recipe and the overrides say, by dotted key, and what in them is no setting at all."""
    written: dict[str, Source] = {}
    problems: list[str] = []
    try:
        content = yaml_text.load(recipe.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"{recipe}: not readable as YAML: {reason}; correct it.") from error
    if not isinstance(content, dict):
        raise SettingError(
            f"{recipe}: found {type(content).__name__}, expected sections of settings."
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
            problems.append(f"{override}: found no '=', expected key=value, e.g. training.epochs=5")
            continue
        written[key.strip()] = Source(read_value(text), "override")
    return written, problems


def read_value(text: str) -> Any:
    """Parse an override's value as YAML; return the text itself if it is not YAML."""
    try:
        return yaml_text.load(text)
    except yaml.YAMLError:
        return text


def written_value(value: Any) -> str:
    """Return the text of an override's value, which ``read_value`` reads as that value."""
    if isinstance(value, str) and read_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def overrides_of(experiment: Experiment, recipe: Path) -> list[str]:
    """Return the overrides that make an experiment of its recipe as it is now.

    Raises SettingError if the recipe is wrong, or states a budget that the experiment lacks.
    """
    plain, _ = resolve(experiment.model, recipe, type(experiment.settings), seed=experiment.seed)
    if missing := [name for name in plain.accept if name not in experiment.accept]:
        raise SettingError(f"{recipe}: accept.{missing[0]}: found it, expected none.")
    before, now = _by_key(plain), _by_key(experiment)
    return [f"{key}={written_value(now[key])}" for key in now if now[key] != before.get(key)]


def changed(experiment: Experiment) -> list[tuple[str, Any, Any]]:
    """Return the settings that differ from their defaults: key, value, default."""
    return [
        (f"{section}.{name}", value, setting.default)
        for section, part in experiment.sections.items()
        for name, setting in settings_of(type(part)).items()
        if (value := getattr(part, name)) != setting.default
    ]


def _by_key(experiment: Experiment) -> dict[str, Any]:
    settings = {
        f"{section}.{name}": getattr(part, name)
        for section, part in experiment.sections.items()
        for name in settings_of(type(part))
    }
    return settings | {f"accept.{name}": bound for name, bound in experiment.accept.items()}


def _place(recipe: Path) -> str:
    return "/".join(recipe.parts[-3:])


@dataclass(frozen=True)
class Explained:
    """One line of ``invoke config``."""

    key: str
    value: Any
    type: str
    source: str
    help: str


def explain(experiment: Experiment, written: dict[str, Source]) -> list[Explained]:
    """Return each setting and budget with its value, type, source and one line of help."""
    settings = [
        Explained(
            key := f"{section}.{name}",
            getattr(part, name),
            setting.expected,
            written[key].place if key in written else "default",
            setting.help,
        )
        for section, part in experiment.sections.items()
        for name, setting in settings_of(type(part)).items()
    ]
    budgets = [
        Explained(key, bound, "bound", written[key].place, described(name))
        for name, bound in experiment.accept.items()
        if (key := f"accept.{name}") in written
    ]
    return settings + budgets
