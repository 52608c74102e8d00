"""Locks all categories of the Pipfile, without a trace of the machine; `invoke lock` runs this.

A locked version stays while it satisfies the Pipfile: uv chooses versions, and prefers those of the
lock. pipenv writes the entries, hashes and markers, of the packages that moved; the others keep
theirs to the byte.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import pipfile
import process
from installers import default_index, pip_settings, tool, torch_addresses, uv_settings
from lockfile import NAMES, normal, parsed, pipfile_digest
from pipfile import TORCH, requirement
from process import PYTHON, ROOT, SetUpError, content, say, write_together

Lock = dict[str, Any]


class Pin(NamedTuple):
    """A version, and the marker of the machines that need it."""

    version: str
    marker: str


Pins = dict[str, Pin]  # by the package's name


def main() -> int:
    words = options()
    try:
        process.wait_for_others()
        print("\n".join(relock(words)) or "Pipfile.lock: as it was")
    except SetUpError as error:
        say(str(error))
        return 2
    except OSError as error:
        say(
            f"{error.filename}: {error.strerror}; correct that (./workbench makes .venv), then run "
            "the command again"
        )
        return 2
    except KeyboardInterrupt:
        say("interrupted; run the same command again")
        return 130
    return 0


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lock.py", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="of another Pipfile")
    parser.add_argument("--add", metavar="NAME[==VERSION]", help="with one more package")
    parser.add_argument("--dev", action="store_true", help="with --add: only for development")
    parser.add_argument("--remove", metavar="NAME", help="without a package")
    text = "move this package, or all that the Pipfile does not pin, to the newest version"
    parser.add_argument("--upgrade", metavar="NAME", nargs="?", const="", help=text)
    return parser.parse_args()


def relock(words: argparse.Namespace) -> list[str]:
    """Bring Pipfile and lock to what is asked; return a line for each package that moved.

    Both files stay as they were if it fails.
    """
    path = words.folder / "Pipfile"
    lock_path = words.folder / "Pipfile.lock"
    before = parsed(content(lock_path) or "{}")
    text, moving = edit(path.read_text(), before, words)
    chosen = resolve(pipfile.categories(text), before, moving)
    for category, pins in pipfile.categories(text).items():
        for name in {
            name for name, pin in pins.items() if normal(name) in moving and is_unpinned(pin)
        }:
            version = f"=={chosen[category][normal(name)].version}"
            text = pipfile.with_pin(text, category, name, {"version": version})
    after = compose(text, chosen, before, moving)
    write_together({path: text, lock_path: json.dumps(after, indent=4, sort_keys=True) + "\n"})
    return differences(before, after)


def edit(text: str, lock: Lock, words: argparse.Namespace) -> tuple[str, set[str]]:
    """Return the edited Pipfile and the packages whose locked versions need not stay.

    A pin that is to be chosen is "*" there.
    """
    names = {normal(name) for entries in categories(lock).values() for name in entries}
    name = normal(re.split(r"[\[=]", words.add or words.remove or words.upgrade or "")[0])
    if name == TORCH:
        raise SetUpError(
            "torch: locked twice, for CPU and GPU; edit its lines in [cpu] and [gpu] of the "
            "Pipfile, then run `invoke lock`"
        )
    if words.add:
        return pipfile.add(text, words.add, pipfile.DEV if words.dev else pipfile.PACKAGES), {name}
    if words.remove:
        return pipfile.remove(text, words.remove), set()
    if words.upgrade is None:
        return text, set()
    if not name:
        return text, names - {TORCH}
    if name not in names:
        raise SetUpError(f"{words.upgrade}: not in Pipfile.lock{pipfile.nearest(name, names)}")
    for category in pipfile.categories_of(text, name):
        text = pipfile.with_pin(text, category, name, {"version": "*"})
    return text, {name}


def is_unpinned(pin: Any) -> bool:
    return pin == "*" or (isinstance(pin, dict) and pin.get("version") == "*")


def resolve(
    wanted: Mapping[str, Mapping[str, Any]], lock: Lock, moving: set[str]
) -> dict[str, Pins]:
    """Choose a version for each package of each category, near to those of the lock.

    A package has the same version in all categories, but for torch: whoever needs it gets the build
    of `cpu` or `gpu`, so it is in no other category.
    """
    lines = {
        category: [requirement(name, pin) for name, pin in pins.items()]
        for category, pins in wanted.items()
    }
    before = {
        category: {
            f"{name}=={entry['version'].lstrip('=')}"
            for name, entry in lock.get(NAMES.get(category, category), {}).items()
            if normal(name) not in moving
        }
        for category in wanted
    }
    together = [line for category, each in lines.items() if category != "gpu" for line in each]
    preferred = {line for category, each in before.items() if category != "gpu" for line in each}
    everything = compile_pins(together, (), preferred)
    shared = [f"{name}=={pin.version}" for name, pin in everything.items() if name != TORCH]
    return {
        category: compile_pins(
            each, shared, before[category], () if TORCH in wanted[category] else (TORCH,)
        )
        for category, each in lines.items()
    }


def compile_pins(
    requirements: Iterable[str],
    constraints: Iterable[str],
    preferred: Iterable[str],
    excluded: Iterable[str] = (),
) -> Pins:
    """What `uv pip compile` makes of requirements, with all that they need."""
    uv = tool("uv")
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "requirements.in": requirements,
            "constraints.txt": constraints,
            "requirements.txt": preferred,  # uv keeps the versions of an output that is there
            "excluded.txt": excluded,
        }
        paths = {name: Path(folder) / name for name in files}
        for name, lines in files.items():
            paths[name].write_text("".join(f"{line}\n" for line in sorted(lines)))
        settings, variables = uv_settings(torch_of(requirements))
        command: list[str | Path] = [uv, "pip", "compile", "--python", PYTHON, *settings]
        command += ["--no-config", "--no-build", "--no-annotate", "--no-header"]
        command += ["--no-strip-markers", "--constraints", paths["constraints.txt"]]
        command += ["--excludes", paths["excluded.txt"], "--output-file", paths["requirements.txt"]]
        command += ["--quiet", paths["requirements.in"]]
        process.run_quietly("choosing versions", command, **variables)
        lines = paths["requirements.txt"].read_text()
    pins = re.findall(r"^([\w.-]+)==(\S+)(?: ; (.+))?$", lines, re.MULTILINE)
    return {normal(name): Pin(version, marker) for name, version, marker in pins}


def torch_of(requirements: Iterable[str]) -> dict[str, str]:
    """The version of torch among requirements, as an entry of a lock."""
    pins = [line for line in requirements if re.match(rf"{TORCH}=", line)]
    return {"version": pins[0].removeprefix(TORCH)} if pins else {}


def compose(text: str, chosen: Mapping[str, Pins], before: Lock, moving: Set[str]) -> Lock:
    """The lock of a Pipfile: entries that stay as they were, and those that pipenv writes."""
    asked_for = pipfile.categories(text)
    spelled = {normal(name): name for each in categories(before).values() for name in each}
    known = {
        (normal(name), entry["version"].lstrip("=")): entry | {"name": name}
        for entries in categories(before).values()
        for name, entry in entries.items()
    }
    new = {
        (name, pin.version)
        for pins in chosen.values()
        for name, pin in pins.items()
        if name in moving or (name, pin.version) not in known
    }
    written = entries_of(new, chosen)
    lock: Lock = {}
    for category, pins in chosen.items():
        lock[NAMES.get(category, category)] = entries = {}
        direct = {normal(name): pin for name, pin in asked_for[category].items()}
        for name, pin in pins.items():
            one, asks = (name, pin.version), direct.get(name)
            entry = dict(written.get(one) or known[one])
            if one in written and pin.marker:
                entry["markers"] = pin.marker
            if category == "gpu" and name != TORCH and name not in chosen.get("cpu", {}):
                entry["markers"] = on_linux(entry.get("markers", ""))
            # The files of a version are added to, never taken away.
            entry["hashes"] = sorted({*entry["hashes"], *known.get(one, entry)["hashes"]})
            # Three equals signs stay, as 2.13.0+cpu would satisfy two.
            entry["version"] = f"{'===' if str(asks).startswith('===') else '=='}{pin.version}"
            if isinstance(asks, dict) and "extras" in asks:
                entry["extras"] = sorted(asks["extras"])
            written_name = entry.pop("name")
            entries[spelled.get(name, written_name)] = entry
    requires = tomllib.loads(text).get("requires", {})
    digest = {"sha256": pipfile_digest(text, default_index())}
    return lock | {
        "_meta": {"hash": digest, "pipfile-spec": 6, "requires": requires, "sources": []}
    }


def on_linux(marker: str) -> str:
    """The marker of a package that CUDA's torch alone needs: it is for Linux."""
    if "sys_platform" in marker or "platform_system" in marker:
        return marker
    return " and ".join([*([marker] if marker else []), "sys_platform == 'linux'"])


def entries_of(
    new: Set[tuple[str, str]], chosen: Mapping[str, Pins]
) -> dict[tuple[str, str], dict[str, Any]]:
    """The entries that `pipenv lock` writes of versions, by name and version.

    Each torch is locked by itself, for no environment has two; the others beside that of `cpu`,
    which some of them may need.
    """
    torch = chosen.get("cpu", {}).get(TORCH)
    beside = {TORCH: torch.version} if torch else {}
    groups = [{name: version} for name, version in new if name == TORCH]
    if others := {name: version for name, version in new if name != TORCH}:
        groups.append(beside | others)
    entries = {}
    for group in groups:
        for name, entry in pipenv_lock(group).items():
            entry.pop("index", None)
            if (one := (normal(name), entry["version"].lstrip("="))) in new:
                entries[one] = entry | {"name": name}
    if missing := sorted(new - entries.keys()):
        raise SetUpError(
            f"locking: {missing[0][0]}: no entry of version {missing[0][1]} by pipenv; try another "
            "version"
        )
    return entries


def pipenv_lock(versions: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What pipenv locks of a Pipfile with these versions, aside."""
    pipenv = tool("pipenv")
    with tempfile.TemporaryDirectory() as folder:
        lines = [f'"{name}" = "==={version}"' for name, version in sorted(versions.items())]
        torch = {"version": f"=={versions.get(TORCH, '')}"}
        (Path(folder) / "Pipfile").write_text("\n".join(["[packages]", *lines, ""]))
        command = (pipenv, "lock", "--python", sys.executable)
        process.run_quietly("locking", command, **neutral(folder, torch))
        lock: Lock = json.loads((Path(folder) / "Pipfile.lock").read_text())
    entries: dict[str, dict[str, Any]] = lock["default"]
    return entries


def neutral(folder: str | Path, torch: dict[str, str]) -> dict[str, str | None]:
    """Variables for pipenv, which would write pip's indexes into the digest of the Pipfile.

    The find-links count, they offer the +cpu wheel; an index of the machine stands in as a mirror.
    """
    pip = pip_settings()
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


def categories(lock: Lock) -> Lock:
    return {name: entries for name, entries in lock.items() if name != "_meta"}


def versions(lock: Lock) -> dict[str, str]:
    return {
        f"{category}: {name}": entry["version"].lstrip("=")
        for category, entries in categories(lock).items()
        for name, entry in entries.items()
    }


def differences(before: Lock, after: Lock) -> list[str]:
    """One line for each package that came, went or changed its version."""
    old, new = versions(before), versions(after)
    return [
        f"{name} {old.get(name, '(none)')} -> {new.get(name, '(none)')}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]


if __name__ == "__main__":
    sys.exit(main())
