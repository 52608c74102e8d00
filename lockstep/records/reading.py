"""Reading a run's JSON and YAML: of the shape that its type says, or an error of one line."""

import functools
import json
import types
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from lockstep.ground.errors import RunError

T = TypeVar("T")


class Altered(RunError):
    """A file of a run does not hold what it was written with; ``problem`` says what it holds."""

    def __init__(self, path: Path, problem: str):
        super().__init__(f"{path}: {problem}; it was altered. Put the file back, or train again.")
        self.problem = f"{path.name}: {problem}"


class NewerSchema(RunError):
    """A file was written by a newer Lockstep than this one."""


def json_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object that a file holds, None if there is no such file.

    Raises RunError for a file that holds anything else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; make it readable.") from error
    except (ValueError, RecursionError) as error:
        raise Altered(path, f"not readable as JSON ({error})") from error
    return shaped(path, content, dict[str, Any])


def shaped(path: Path, content: object, kind: type[T]) -> T:
    """Return the content of a file as what it is: JSON of the type ``kind``, often a TypedDict.

    Keys that the type does not have are left alone. Raises RunError that names the first misfit.
    """
    if problem := misfit(content, kind):
        raise Altered(path, problem)
    return cast(T, content)


def refuse_newer(path: Path, schema: object, known: int) -> None:
    """Raise NewerSchema for a file of a newer schema than the newest that is known here."""
    if problem := misfit(schema, int, "schema"):
        raise Altered(path, problem)
    if cast(int, schema) > known:
        raise NewerSchema(
            f"{path}: schema {schema}, this Lockstep reads up to {known}; `invoke upgrade`."
        )


def misfit(value: object, kind: Any, place: str = "") -> str:
    """Return where a JSON value is not of a type, in words; empty if all of it is.

    Types are those of JSON: TypedDicts, lists and dicts of one type, unions, str, int, float, bool,
    None and Any. A whole number is a float, too.
    """
    if kind is Any:
        return ""
    if is_typeddict(kind):
        return _misfit_of_keys(value, kind, place)
    origin, inside = _parts(kind)
    if origin is list and isinstance(value, list):
        rows = (misfit(one, inside[0], f"{place}[{at}]") for at, one in enumerate(value))
        return next(filter(None, rows), "")
    if origin is dict and isinstance(value, dict):
        rows = (misfit(one, inside[1], _below(place, name)) for name, one in value.items())
        return next(filter(None, rows), "")
    if origin in (Union, types.UnionType) and any(not misfit(value, one) for one in inside):
        return ""
    plain = (int, float) if kind is float else kind
    if origin is None and isinstance(value, plain) and isinstance(value, bool) == (kind is bool):
        return ""
    return _unexpected(value, kind, place)


def _misfit_of_keys(value: object, kind: Any, place: str) -> str:
    if not isinstance(value, dict):
        return _unexpected(value, kind, place)
    if missing := kind.__required_keys__ - value.keys():
        return f"{_below(place, min(missing))} not found"
    for name, inner in _hints(kind).items():
        if name in value and (problem := misfit(value[name], inner, _below(place, name))):
            return problem
    return ""


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _unexpected(value: object, kind: Any, place: str) -> str:
    found = f"{value!r:.40}" if isinstance(value, str | int | float | None) else _NAMES[type(value)]
    where = f"{place}: " if place else ""
    return f"{where}found {found}, expected {_name(kind)}"


_NAMES: dict[Any, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _name(kind: Any) -> str:
    origin, inside = _parts(kind)
    if inside and origin not in (list, dict):
        return " or ".join(map(_name, inside))
    return _NAMES[dict if is_typeddict(kind) else origin or kind]


@functools.cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(kind), get_args(kind)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
