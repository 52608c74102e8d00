"""Reads and edits the text of a Pipfile, one line for each package; stdlib only."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from lockfile import normal
from process import SetUpError

PACKAGES, DEV = "packages", "dev-packages"
TORCH = "torch"
_OTHERS = ("source", "requires", "scripts", "pipfile", "pipenv")  # sections that are no categories
_KEY = re.compile(r'"?([\w.-]+)"? *=')


def categories(text: str) -> dict[str, dict[str, Any]]:
    """Parse a Pipfile: the packages of each category with what it asks of them.

    Raises SetUpError if it is not TOML.
    """
    try:
        content = tomllib.loads(text)
    except ValueError as error:
        raise SetUpError(f"Pipfile: found {error}, expected TOML; correct it") from error
    return {PACKAGES: {}, DEV: {}} | {k: v for k, v in content.items() if k not in _OTHERS}


def requirement(name: str, pin: Any) -> str:
    """A package of the Pipfile as a line of requirements. Raises SetUpError for other sources."""
    table = {"version": pin} if isinstance(pin, str) else dict(pin)
    if strange := sorted(table.keys() - {"version", "extras", "markers"}):
        raise SetUpError(
            f"Pipfile: {name}: found {strange[0]}, expected only version, extras and markers; "
            "publish the package on an index and name its version"
        )
    extras = f"[{','.join(table['extras'])}]" if "extras" in table else ""
    marker = f" ; {table['markers']}" if "markers" in table else ""
    version = table.get("version", "*")
    return f"{name}{extras}{'' if version == '*' else version}{marker}"


def add(text: str, spec: str, category: str) -> str:
    """Return the Pipfile with one more package, or another version of it: NAME or NAME==VERSION.

    Without a version it has the pin "*", for one that is yet to be chosen. Raises SetUpError for
    anything else than such a name, and for a package of another category.
    """
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)(\[[\w.,-]+\])?(?:(==)([\w.!+-]+))?", spec)
    if not match:
        raise SetUpError(f"{spec}: not a package, expected NAME or NAME==VERSION")
    name, extras, _, version = match.groups()
    if others := [one for one in categories_of(text, name) if one != category]:
        raise SetUpError(
            f"{name}: is in [{'] and ['.join(others)}] of the Pipfile, expected nowhere or in "
            f"[{category}]; edit the Pipfile, then run `invoke lock`"
        )
    pin: dict[str, Any] = {"version": f"=={version}" if version else "*"}
    if extras:
        pin["extras"] = sorted(extras[1:-1].split(","))
    return with_pin(text, category, name, pin)


def remove(text: str, name: str) -> str:
    """Return the Pipfile without a package. Raises SetUpError if it is in no category."""
    present = categories_of(text, name)
    if not present:
        raise SetUpError(f"{name}: not in the Pipfile{nearest(name, _names(text))}")
    for category in present:
        text = with_pin(text, category, name, None)
    return text


def categories_of(text: str, name: str) -> list[str]:
    """The categories that have a package."""
    return [
        category for category, pins in categories(text).items() if normal(name) in map(normal, pins)
    ]


def _names(text: str) -> list[str]:
    return [name for pins in categories(text).values() for name in pins]


def nearest(name: str, names: Iterable[str]) -> str:
    """A question for the name that was meant, to be added to a message; empty if none is near."""
    close = difflib.get_close_matches(normal(name), sorted(set(names)), 1)
    return f". Did you mean {close[0]}?" if close else ""


def with_pin(text: str, category: str, name: str, pin: Mapping[str, Any] | None) -> str:
    """Return the Pipfile with another line for a package, at its place in the alphabet, or none.

    Extras and markers stay unless the pin has its own. Raises SetUpError where the category is not
    one line for each package.
    """
    lines = text.splitlines()
    header = re.compile(rf"\[{category}\]\s*(#.*)?")
    if not any(map(header.fullmatch, lines)):
        lines += ["", f"[{category}]"]
    start = next(n for n, line in enumerate(lines) if header.fullmatch(line)) + 1
    end = next((n for n in range(start, len(lines)) if lines[n].startswith("[")), len(lines))
    keys = {n: match[1] for n in range(start, end) if (match := _KEY.match(lines[n]))}
    same = [n for n, key in keys.items() if normal(key) == normal(name)]
    pins = categories(text).get(category, {})
    present = {key: one for key, one in pins.items() if normal(key) == normal(name)}
    expected = {key: one for key, one in pins.items() if key not in present}
    if pin is None:
        lines = [line for n, line in enumerate(lines) if n not in same]
    else:
        key, old = next(iter(present.items()), (name, {}))
        table = ({} if isinstance(old, str) else dict(old)) | dict(pin)
        value = table["version"] if table.keys() == {"version"} else table
        expected[key] = value
        line = f"{key if re.fullmatch('[A-Za-z0-9_-]+', key) else json.dumps(key)} = {_toml(value)}"
        after = [n for n, other in keys.items() if normal(other) > normal(name)]
        place = same[0] if same else min(after, default=max(keys, default=start - 1) + 1)
        lines[place : place + len(same)] = [line]
    edited = "\n".join(lines) + "\n"
    if categories(edited).get(category) != expected:
        raise SetUpError(
            f"Pipfile: [{category}]: expected one line for each package; edit {name} by hand, then "
            "run `invoke lock`"
        )
    return edited


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)  # a string or a list of them is the same in TOML
