"""Reading a run's JSON and YAML: of the shape that its type says, or an error of one line."""

import functools
import json
import os
import stat
import types
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from lockstep.ground.errors import RunError, printable

T = TypeVar("T")
_MOST = 1 << 28  # bytes; older receipts of a thousand classes have a tenth of it


class Altered(RunError):
    """A file of a run does not hold what it was written with; ``problem`` says what it holds."""

    def __init__(self, path: Path, problem: str):
        place = printable(str(path))
        super().__init__(f"{place}: {problem}; it was altered. Put the file back, or train again.")
        self.problem = f"{path.name}: {problem}"


class NewerSchema(RunError):
    """A file was written by a newer Lockstep than this one."""


def content_of(path: Path, most: int = _MOST) -> bytes:
    """Return the content of a regular file of at most so many bytes; never waits, as a FIFO would.

    Raises Altered for anything else at that path, FileNotFoundError if nothing is, RunError if it
    cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise Altered(path, "is not a regular file")
            if status.st_size > most:
                raise Altered(path, f"found {status.st_size:,} bytes, expected at most {most:,}")
            with open(handle, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(handle)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(str(path)) from error
    except OSError as error:
        raise RunError(f"{printable(str(path))}: {error.strerror}; make it readable.") from error


def json_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object that a file holds, None if there is no such file.

    Raises RunError for a file that holds anything else.
    """
    try:
        content = json.loads(content_of(path))
    except FileNotFoundError:
        return None
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


# What JSON and YAML make of the plain types; True is no number here.
_PLAIN: dict[Any, set[type]] = {
    str: {str},
    int: {int},
    float: {float, int},
    bool: {bool},
    types.NoneType: {types.NoneType},
}


def misfit(value: object, kind: Any, place: str = "") -> str:
    """Return where a JSON value is not of a type, in words; empty if all of it is.

    Types are those of JSON: TypedDicts, lists and dicts of one type, unions, str, int, float, bool,
    None and Any. A whole number is a float, too.
    """
    if kind is Any or type(value) in _PLAIN.get(kind, ()):
        return ""
    origin, inside = _parts(kind)
    if is_typeddict(kind) and isinstance(value, dict):
        return _misfit_of_keys(value, kind, place)
    if origin in (list, dict) and isinstance(value, origin):
        return _misfit_of_items(value, inside[-1], place)
    if origin in (Union, types.UnionType) and any(not misfit(value, one) for one in inside):
        return ""
    found = (
        _words(type(value)) if isinstance(value, list | dict) else json.dumps(value, default=str)
    )
    return f"{place}: found {found:.40}, expected {_words(kind)}".removeprefix(": ")


def _misfit_of_keys(value: dict[str, Any], kind: Any, place: str) -> str:
    if missing := kind.__required_keys__ - value.keys():
        return f"{_below(place, min(missing))} not found"
    for name, inner, plain in _keys(kind):
        if name not in value or type(value[name]) in plain:
            continue
        if problem := misfit(value[name], inner, _below(place, name)):
            return problem
    return ""


def _misfit_of_items(value: dict[str, Any] | list[Any], kind: Any, place: str) -> str:
    items = value.values() if isinstance(value, dict) else value
    if set(map(type, items)) <= _PLAIN.get(
        kind, set()
    ):  # most are, so a thousand receipts are fast
        return ""
    names = value if isinstance(value, dict) else range(len(value))
    for name, one in zip(names, items, strict=True):
        if problem := misfit(one, kind, _below(place, str(name))):
            return problem
    return ""


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


_WORDS: dict[Any, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}


def _words(kind: Any) -> str:
    origin, inside = _parts(kind)
    if inside and origin not in (list, dict):
        return " or ".join(map(_words, inside))
    return _WORDS[dict if is_typeddict(kind) else origin or kind]


@functools.cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(kind), get_args(kind)


@functools.cache
def _keys(kind: Any) -> list[tuple[str, Any, Collection[type]]]:
    """Each key of a TypedDict with its type, and what is of that type without a further look."""
    hints = get_type_hints(kind).items()
    return [(name, inner, _PLAIN.get(inner, ())) for name, inner in hints]
