"""Merges Pipfiles package by package, where a merge by lines sees a conflict of neighbours."""

import re
import tomllib

Pins = dict[tuple[str, str], str]  # section and package to the line


def merge_pins(base: str, ours: str, new: str) -> str | None:
    """Return our Pipfile with what changed from ``base`` to ``new``; our comments and order stay.

    None where both sides changed the same package, or where one is not a line for each.
    """
    pins = [_pins(text) for text in (base, ours, new)]
    if None in pins:
        return None
    before, mine, theirs = (one or {} for one in pins)
    lines = ours.splitlines()
    for key in sorted(before.keys() | theirs.keys()):
        old, own, line = before.get(key), mine.get(key), theirs.get(key)
        if line in (old, own):
            continue
        if own != old:
            return None
        if own is not None:
            place = lines.index(own, lines.index(_header(lines, key[0])))
            lines[place : place + 1] = [line] if line is not None else []
        elif line is not None and any(one.startswith(f"[{key[0]}]") for one in lines):
            lines.insert(_place(lines, *key), line)
    text = "\n".join(lines) + "\n"
    return text if _pins(text) == _merged(before, mine, theirs) else None


def _merged(before: Pins, mine: Pins, theirs: Pins) -> Pins:
    merged = {key: line for key, line in mine.items() if before.get(key) != line or key in theirs}
    return merged | {key: line for key, line in theirs.items() if before.get(key) != line}


def _pins(text: str) -> Pins | None:
    """Section and package to the line of each; None if something else is in the file."""
    pins, section = {}, ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[([\w-]+)\]\s*(#.*)?", line):
            section = header[1]
        elif pin := re.match(r'"?([\w.-]+)"? *= *\S', line):
            pins[section, pin[1]] = line
        elif line.strip() and not line.startswith("#"):
            return None
    try:
        parsed = tomllib.loads(text)
    except ValueError:
        return None
    keys = {(name, key) for name, part in parsed.items() for key in part}
    return pins if pins.keys() == keys else None


def _header(lines: list[str], section: str) -> str:
    return next(line for line in lines if line.startswith(f"[{section}]"))


def _place(lines: list[str], section: str, package: str) -> int:
    """The line before which a new package belongs by the alphabet."""
    place = lines.index(_header(lines, section)) + 1
    while place < len(lines) and (pin := re.match(r'"?([\w.-]+)"? *=', lines[place])):
        if pin[1].lower() > package.lower():
            break
        place += 1
    return place
