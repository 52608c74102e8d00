"""What each setting of a class may be: its type, bounds and choices.

Types are bool, int, float, str and None, lists and dicts of them, and unions such as
``float | None``.
"""

import dataclasses
import math
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from lockstep.ground.errors import SettingError

_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}
_RULES = ("help", "low", "high", "choices", "power_of_two", "bits")  # of `setting`

NOT_TUNED = ("training.profile", "training.device", "start.sha256")  # where to train, not how


@dataclass(frozen=True)
class Setting:
    """One setting as its class declares it."""

    name: str
    type: Any
    default: Any
    help: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    power_of_two: bool = False
    bits: bool = True

    @property
    def expected(self) -> str:
        """What it may be, for people: ``int, a power of two from 1 to 256``."""
        text = str(self.type) if get_args(self.type) else self.type.__name__
        if self.choices:
            return f"{text} out of {', '.join(self.choices)}"
        text += ", a power of two" if self.power_of_two else ""
        if self.low is not None and self.high is not None:
            return f"{text} from {self.low:g} to {self.high:g}"
        return f"{text}, at least {self.low:g}" if self.low is not None else text

    def convert(self, value: Any) -> Any:
        """Return a value in the setting's type; an int becomes a float where that is the type.

        Raises ValueError, with what was found and what is expected, for a value that does not fit.
        """
        try:
            return self._convert(value, self.type)
        except ValueError:
            raise ValueError(f"found {value!r}, expected {self.expected}") from None

    def _convert(self, value: Any, kind: Any) -> Any:
        origin, args = get_origin(kind), get_args(kind)
        if origin is list and isinstance(value, list):
            return [self._convert(item, args[0]) for item in value]
        if origin is dict and isinstance(value, dict) and all(type(key) is str for key in value):
            return {key: self._convert(item, args[1]) for key, item in value.items()}
        if origin in (Union, UnionType):
            for one in args:
                try:
                    return self._convert(value, one)
                except ValueError:
                    continue
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or not self._allows(value):
            raise ValueError
        return value

    def _allows(self, value: bool | int | float | str | None) -> bool:
        if isinstance(value, str):
            return not self.choices or value in self.choices
        if isinstance(value, bool) or value is None:
            return True
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and not (self.power_of_two and int(value) & (int(value) - 1))
        )

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of its values. Raises TypeError for a type that has none."""
        return self._schema(self.type)

    def _schema(self, kind: Any) -> dict[str, Any]:
        origin, args = get_origin(kind), get_args(kind)
        if origin is list:
            return {"type": "array", "items": self._schema(args[0])}
        if origin is dict and args[0] is str:
            return {"type": "object", "additionalProperties": self._schema(args[1])}
        if origin in (Union, UnionType):
            return {"anyOf": [self._schema(one) for one in args]}
        if kind not in _JSON_TYPES:
            raise TypeError(f"found the type {kind}")
        schema: dict[str, Any] = {"type": _JSON_TYPES[kind]}
        if kind is str and self.choices:
            schema["enum"] = list(self.choices)
        if kind in (int, float):
            bounds = {"minimum": self.low, "maximum": self.high}
            schema |= {name: bound for name, bound in bounds.items() if bound is not None}
            if self.power_of_two and self.high is not None:
                powers = (2**n for n in range(int(self.high).bit_length()))
                schema["enum"] = [n for n in (0, *powers) if self._allows(n)]
        return schema


def settings_of(kind: type[Any]) -> dict[str, Setting]:
    """Return the settings that a dataclass declares, by name.

    Raises SettingError for a type that cannot be written in a recipe, and for a wrong default.
    """
    place = f"{kind.__module__}.{kind.__qualname__}"
    if not dataclasses.is_dataclass(kind):
        raise SettingError(f"{place}: found a plain class; decorate it by @dataclass(frozen=True).")
    hints = get_type_hints(kind)
    return {
        item.name: _setting(f"{place}.{item.name}", hints[item.name], item)
        for item in dataclasses.fields(kind)
        if item.init
    }


def _setting(place: str, hint: Any, item: dataclasses.Field[Any]) -> Setting:
    default = item.default
    if item.default_factory is not dataclasses.MISSING:
        default = item.default_factory()
    if default is dataclasses.MISSING:
        raise SettingError(f"{place}: has no default; write setting(DEFAULT, 'a line of help').")
    rules = {name: item.metadata[name] for name in _RULES if name in item.metadata}
    declared = Setting(item.name, hint, default, **rules)
    try:
        declared.schema()
        return dataclasses.replace(declared, default=declared.convert(default))
    except TypeError as error:
        expected = "bool, int, float, str, a list or dict[str, ...] of them, or `| None`"
        raise SettingError(f"{place}: {error}, expected {expected}.") from None
    except ValueError as error:
        raise SettingError(f"{place}: its default does not fit: {error}.") from None
