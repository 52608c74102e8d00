"""Paths from others: which may be written below a folder of ours."""

import re
import unicodedata

_LONGEST, _LONGEST_PART = 1024, 255  # bytes; the second is what file systems take
_DRIVE = re.compile(r"[A-Za-z]:")
_GIT = {".git", "git~1"}  # the second is what Windows calls the first


def unsafe(path: str) -> str:
    """Return why a relative path from others must not be written below a folder; empty if it may.

    It may lead out of the folder, hide in a terminal, or make the folder a git repository, whose
    settings name commands that the next `git status` runs.
    """
    parts = path.split("/")
    if "\\" in path or _DRIVE.match(path) or {"", ".", ".."} & set(parts):
        return "would be written outside of the folder"
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in path):
        return "has control characters"
    lengths = [len(part.encode()) for part in (path, *parts)]
    if lengths[0] > _LONGEST or max(lengths[1:]) > _LONGEST_PART:
        return "is too long a path"
    if _GIT & {_plain(part) for part in parts} or _plain(parts[-1]) == "head":
        return "would make the folder a git repository, whose settings can name commands"
    return ""


def _plain(part: str) -> str:
    """A part of a path as file systems compare it that ignore case, and what cannot be seen."""
    seen = (letter for letter in part if unicodedata.category(letter) != "Cf")
    return "".join(seen).casefold().rstrip(". ")
