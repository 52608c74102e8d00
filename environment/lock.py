"""Locks all categories of the Pipfile, without a trace of the machine; `invoke lock` runs this.

``lock.py FOLDER`` locks the Pipfile of another folder, with this one's tools.
"""

import json
import os
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import process
from installers import pip_settings, tool, torch_addresses
from lockfile import NAMES
from process import ROOT, SetUpError, say, write_atomically

FOLDER = Path(sys.argv[1]) if sys.argv[1:] else ROOT
PIPFILE, LOCKFILE = FOLDER / "Pipfile", FOLDER / "Pipfile.lock"


def main() -> int:
    try:
        process.wait_for_others()
        before = json.loads(LOCKFILE.read_text()) if LOCKFILE.exists() else {}
        after = stripped(resolved())
        write_atomically(LOCKFILE, json.dumps(after, indent=4, sort_keys=True) + "\n")
    except SetUpError as error:
        say(str(error))
        return 2
    print("\n".join(differences(before, after)) or "Pipfile.lock: as it was")
    return 0


def resolved() -> dict[str, Any]:
    """What `pipenv lock` makes of the Pipfile, aside, so that a failure changes nothing."""
    pipenv = tool("pipenv")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(PIPFILE, folder)
        command = (pipenv, "lock", "--python", sys.executable)
        process.run("locking", command, **neutral(folder))
        lock: dict[str, Any] = json.loads((Path(folder) / "Pipfile.lock").read_text())
    return lock


def neutral(folder: str | Path) -> dict[str, str | None]:
    """Variables for pipenv, which would write pip's indexes into the digest of the Pipfile.

    The find-links count, they offer the +cpu wheel; an index of the machine stands in as a mirror.
    """
    pip = pip_settings()
    torch = {"version": tomllib.loads(PIPFILE.read_text())["cpu"]["torch"]}
    links = [*pip.get("find-links", "").split(), *torch_addresses(torch)]
    variables: dict[str, str | None] = {}
    variables |= {f"PIP_{name.upper()}": pip[name] for name in ("cert", "proxy") if name in pip}
    if "index-url" in pip:
        variables["PIPENV_PYPI_MIRROR"] = pip["index-url"]
    return variables | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": None,
        "PIP_EXTRA_INDEX_URL": None,
        "PIP_FIND_LINKS": " ".join(links),
        "PIPENV_PIPFILE": str(Path(folder) / "Pipfile"),
        "PIPENV_VENV_IN_PROJECT": "1",
        "PIPENV_IGNORE_VIRTUALENVS": "1",
        "PIPENV_DONT_LOAD_ENV": "1",
        "PIPENV_NOSPIN": "1",
    }


def stripped(lock: dict[str, Any]) -> dict[str, Any]:
    """Without the addresses and names of package indexes: any mirror serves, the hashes decide."""
    lock["_meta"]["sources"] = []
    pipfile = tomllib.loads(PIPFILE.read_text())
    pins = {NAMES.get(name, name): category for name, category in pipfile.items()}
    for category, entries in categories(lock).items():
        for name, entry in entries.items():
            entry.pop("index", None)
            pin = str(pins.get(category, {}).get(name))
            if pin.startswith("==="):  # pipenv makes it two, which 2.13.0+cpu would satisfy as well
                entry["version"] = pin
    return lock


def categories(lock: dict[str, Any]) -> dict[str, Any]:
    return {name: entries for name, entries in lock.items() if name != "_meta"}


def versions(lock: dict[str, Any]) -> dict[str, str]:
    return {
        f"{category}: {name}": entry["version"].lstrip("=")
        for category, entries in categories(lock).items()
        for name, entry in entries.items()
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each package that came, went or changed its version."""
    old, new = versions(before), versions(after)
    return [
        f"{name} {old.get(name, '(none)')} -> {new.get(name, '(none)')}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]


if __name__ == "__main__":
    sys.exit(main())
