"""The JSON schema of a model's recipes, with which editors complete and check them.

It is draft 7, which the YAML language server supports best. What depends on more than one setting,
such as settings that do not go together, is checked when the recipe is read.
"""

from typing import Any

from lockstep.config.budgets import MEASURES, METRIC, described
from lockstep.config.experiment import Data, Start, Training
from lockstep.config.settings import NOT_TUNED, Setting, settings_of

_BOUND = {
    "type": "string",
    "pattern": r"^\s*(>=|<=|>|<)\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$",
    "patternErrorMessage": "Expected a bound such as '>= 0.92' or '<= 5'.",
}


def recipe_schema(config: type[Any]) -> dict[str, Any]:
    """Return the JSON schema of the recipes of a model with this Config.

    Raises SettingError for a setting whose type cannot be written in a recipe.
    """
    sections = {
        name: settings_of(kind)
        for name, kind in (
            ("data", Data),
            ("model", config),
            ("training", Training),
            ("start", Start),
        )
    }
    tuned = {
        f"{section}.{name}": setting
        for section, settings in sections.items()
        for name, setting in settings.items()
        if setting.bits and f"{section}.{name}" not in NOT_TUNED
    }
    section = {
        "data": "The examples that a run learns from.",
        "model": "The settings of the model, as its Config declares them.",
        "training": "How a run learns.",
        "start": "The weights that a run starts from, in place of random ones.",
    }
    always = [*MEASURES, "test.loss", "validation.loss"]  # what an editor can offer
    budgets = {name: _BOUND | {"description": described(name)} for name in always}
    spaces = {key: _space(setting) for key, setting in tuned.items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_closed(
            {
                name: _closed({key: _value(one) for key, one in settings.items()}, section[name])
                for name, settings in sections.items()
            }
            | {
                "accept": _closed(
                    budgets, "What a run must reach to be accepted.", {f"^{METRIC}$": _BOUND}
                ),
                "tune": _closed(spaces, "What `invoke tune` may try, setting by setting."),
            },
            "The settings of an experiment; what it leaves out has its default.",
        ),
    }


def _closed(
    properties: dict[str, Any], description: str, patterns: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A section that may be empty and has only these keys and those of the patterns.

    They are in ``allOf``; otherwise completing a section would insert all its settings.
    """
    keys: dict[str, Any] = {"properties": properties, "additionalProperties": False}
    if patterns:
        keys["patternProperties"] = patterns
    return {"description": description, "type": ["object", "null"], "allOf": [keys]}


def _value(setting: Setting) -> dict[str, Any]:
    text = f"{setting.help}\n\n{setting.expected}, default {setting.default!r}"
    return {"description": text, "default": setting.default, **setting.schema()}


def _space(setting: Setting) -> dict[str, Any]:
    """What a study may try of a setting: some values, or for numbers a range."""
    value, text = setting.schema(), f"{setting.help}\n\n{setting.expected}"
    properties: dict[str, Any] = {
        "choices": {
            "description": "Two or more values to choose from.",
            "type": "array",
            "items": value,
            "minItems": 2,
        }
    }
    space = {"description": text, "type": "object", "additionalProperties": False}
    if setting.type not in (int, float) or setting.power_of_two:
        return space | {"properties": properties, "required": ["choices"]}
    properties |= {
        "low": {"description": "The smallest value.", **value},
        "high": {"description": "The largest value.", **value},
        "log": {"description": "Whether to draw evenly by logarithm.", "type": "boolean"},
        "step": {"description": "The distance of values.", "type": "number", "exclusiveMinimum": 0},
    }
    return space | {
        "properties": properties,
        "anyOf": [{"required": ["low", "high"]}, {"required": ["choices"]}],
        "dependencies": {"choices": {"maxProperties": 1}},
    }
