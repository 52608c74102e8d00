"""Decides what a change must pass: the team's gate alone, or everything.

``python -m lockstep.workspace.gate`` prints which, from what differs from main.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from lockstep.ground import home
from lockstep.ground.errors import LockstepError

TEAM, ALL = "team", "all"
# Beside the package of models and data, what no test of the engine reads.
_TEAMS = ("tests/", "docs/", "README.md")


def required(changed: Iterable[str] | None, package: str) -> str:
    """Return the gate that changed paths need: ``team`` if all of them are the team's own.

    ``all`` for any other path, for no path, and for None, where they are unknown.
    """
    paths = list(changed or ())
    own = (f"{package}/", *_TEAMS)
    return TEAM if paths and all(path.startswith(own) for path in paths) else ALL


def changed_paths(root: Path) -> list[str] | None:
    """Return the paths that differ from main, uncommitted ones included; None if unknown.

    Main is the commit LOCKSTEP_BASE, or else where the current branch left ``origin/main``. On
    main itself they are unknown: nothing says how many commits are new.
    """
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        base = _git(root, "merge-base", "HEAD", os.environ.get("LOCKSTEP_BASE") or "origin/main")
        if base.strip() == head:
            return None
        # Without renames, so that a file that was moved away counts as well.
        differing = _git(root, "diff", "--name-only", "--no-renames", "-z", base.strip())
        new = _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    except (OSError, subprocess.CalledProcessError):
        return None
    return sorted(path for path in (differing + new).split("\0") if path)


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def matching(word: str, tests: Path) -> list[str]:
    """Return pytest's arguments for the tests below a folder that a word names, or an empty list.

    They name the files with the word in their path, or else those with a test of that name, so
    that pytest imports no others.
    """
    files = sorted(tests.rglob("test_*.py"))
    if in_path := [str(path) for path in files if word in path.relative_to(tests).as_posix()]:
        return in_path
    named = re.compile(rf"^(?:async )?def test_\w*{re.escape(word)}", re.MULTILINE)
    in_name = [str(path) for path in files if named.search(path.read_text())]
    return [*in_name, "-k", word] if in_name else []


def sizes(*folders: Path) -> str:
    """Describe the sizes of files and functions below folders, without tests."""
    lines, functions = dict[Path, int](), list[int]()
    paths = ((path, folder) for folder in folders for path in folder.rglob("*.py"))
    for path in (path for path, folder in paths if "tests" not in path.relative_to(folder).parts):
        text = path.read_text()
        lines[path] = len(text.splitlines())
        functions += [
            (node.end_lineno or node.lineno) - node.lineno + 1
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
    largest = max(lines, key=lines.__getitem__)
    return (
        f"{len(lines)} files: median {median(lines.values()):.0f} lines, largest {lines[largest]} "
        f"({largest.name}); functions: median {median(functions):.0f} lines"
    )


def main() -> int:
    """Print the gate that this clone's changes need."""
    try:
        package = home.here().package
    except LockstepError as error:
        print(f"gate: {error}", file=sys.stderr)
        package = ""
    print(required(changed_paths(home.ROOT) if package else None, package))
    return 0


if __name__ == "__main__":
    sys.exit(main())
