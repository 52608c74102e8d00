"""The environment of this process: packages against the lock, interpreter, machine, commit."""

import functools
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from lockstep import __version__

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "Pipfile.lock"


class Cpu(TypedDict):
    """A CPU's model, and which of the vector units that matter here it has."""

    model: str
    features: list[str]


class Git(TypedDict):
    """A commit, and whether the working tree had changes; None where there is no checkout."""

    commit: str | None
    dirty: bool | None


class Facts(TypedDict):
    """What a receipt says of the environment; ``lockstep`` is the engine's version."""

    lockstep: str
    python: str
    torch: str
    platform: str
    cpu: Cpu
    threads: int
    git: Git
    image: str | None
    notebook: bool
    packages: dict[str, str]
    drift: list[str]


class Locked(TypedDict):
    """A package in the lock: its version, and the digests of its files."""

    version: str
    hashes: list[str]


@dataclass(frozen=True)
class Packages:
    """The packages that training depends on: installed versions against the lock's.

    ``drift`` has a line for each name that differs, in either direction; empty is as locked.
    """

    installed: dict[str, str]
    locked: dict[str, Locked]
    drift: list[str]


def packages(*sections: str) -> Packages:
    """The installed packages of the lock's sections (by default: ``packages`` and torch's).

    Without a lock at hand (the package was installed by pip alone) all that is installed counts,
    and the drift says so.
    """
    everything = installed()
    if not LOCK.exists():
        return Packages(everything, {}, ["no Pipfile.lock beside the package"])
    locked = locked_packages(*(sections or ("default", torch_category(everything))))
    there = {name: version for name, version in everything.items() if name in locked}
    drift = [
        f"{name}: locked {wanted['version']}, installed {there.get(name, 'none')}"
        for name, wanted in sorted(locked.items())
        if there.get(name) != wanted["version"]
    ]
    return Packages(there, locked, drift)


def locked_packages(*sections: str) -> dict[str, Locked]:
    """Name to ``{version, hashes}`` for the entries of the lock that apply to this platform."""
    lock = json.loads(LOCK.read_text())
    return {
        normal(name): {
            "version": entry["version"].lstrip("="),
            "hashes": sorted(entry.get("hashes", [])),
        }
        for section in sections
        for name, entry in lock.get(section, {}).items()
        if _applies(entry.get("markers", ""))
    }


def torch_category(everything: dict[str, str]) -> str:
    """``cpu`` or ``gpu``: the category whose torch is installed."""
    return "cpu" if everything.get("torch", "+cpu").endswith("+cpu") else "gpu"


@functools.cache
def installed() -> dict[str, str]:
    """Return every distribution that can be imported here: normalised name to version.

    Read from the names of the ``.dist-info`` folders (the format is specified): milliseconds, where
    importlib.metadata takes a hundred.
    """
    versions: dict[str, str] = {}
    for folder in sys.path:
        for path in Path(folder).glob("*.dist-info"):
            name, _, version = path.name.removesuffix(".dist-info").partition("-")
            versions.setdefault(normal(name), version)  # the first on the path is imported
    return dict(sorted(versions.items()))


def normal(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _applies(marker: str) -> bool:
    """Whether an entry of the lock is for this platform.

    Markers of the Python version always fit: one lock, one Python.
    """
    if "sys_platform" not in marker and "platform_" not in marker:
        return True
    from packaging.markers import Marker

    return Marker(marker).evaluate()


def facts(threads: int, torch_version: str) -> Facts:
    """What the receipt says of the environment."""
    return {
        "lockstep": __version__,
        "python": platform.python_version(),
        "torch": torch_version,
        "platform": f"{platform.system()} {platform.machine()}, {_libc()}",
        "cpu": cpu(),
        "threads": threads,
        "git": git(),
        "image": os.environ.get("LOCKSTEP_IMAGE"),
        "notebook": from_notebook(),
        "packages": (found := packages()).installed,
        "drift": found.drift,
    }


def from_notebook() -> bool:
    """Whether this process is a notebook's kernel, or was started by one (``!invoke train``).

    Most kernel launchers set JPY_PARENT_PID, some editors don't; the kernel sets MPLBACKEND.
    """
    inline = "matplotlib_inline" in os.environ.get("MPLBACKEND", "")
    return inline or "JPY_PARENT_PID" in os.environ or "ipykernel.kernelapp" in sys.modules


def torch_version() -> str:
    """Return torch's own version string, without loading torch."""
    spec = find_spec("torch")
    path = Path(spec.origin or "").with_name("version.py") if spec else Path()
    told = path.is_file() and re.search(r"^__version__ = '(.+)'", path.read_text(), re.MULTILINE)
    return told[1] if told else "none"


def gpu() -> str | None:
    """The model of the first GPU, as torch and its driver name it."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def _libc() -> str:
    return " ".join(platform.libc_ver()).strip() or platform.release()


@functools.cache
def cpu() -> Cpu:
    """The CPU's model and which of the vector units matter here it has."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {"model": platform.processor() or platform.machine(), "features": []}
    fields = dict(re.findall(r"^(\w[\w ]*?)\s*: (.*)$", text.partition("\n\n")[0], re.MULTILINE))
    flags = set(str(fields.get("flags") or fields.get("Features", "")).split())
    wanted = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile")
    return {
        "model": f"{fields.get('model name', platform.machine())}"
        + (
            f" (family {fields['cpu family']}, model {fields['model']})"
            if "model" in fields
            else ""
        ),
        "features": [flag for flag in wanted if flag in flags],
    }


@functools.cache
def git() -> Git:
    """The commit of the working tree and whether it has changes; nulls outside a checkout.

    An image has no checkout and names the commit that it was built of.
    """
    if built := os.environ.get("LOCKSTEP_COMMIT"):
        return {"commit": built.removesuffix("-dirty"), "dirty": built.endswith("-dirty")}
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return {"commit": commit, "dirty": bool(changes) if changes is not None else None}


def _git(*words: str) -> str | None:
    try:
        command = ["git", "-C", str(ROOT), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def language() -> str:
    """Return the implementation and version of Python that decide what source means."""
    return f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor}"


def interpreter() -> str:
    """The Python that runs this, with its path."""
    return f"Python {platform.python_version()} ({sys.executable})"
