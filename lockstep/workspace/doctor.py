"""``invoke doctor``: is this machine fit to train on, and if not, what to do."""

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lockstep.ground import environment, profiles, wheels
from lockstep.workspace import engine


@dataclass(frozen=True)
class Finding:
    """One line: a thing, whether it is well, and what it is or what to do."""

    name: str
    ok: bool
    text: str


def examine() -> list[Finding]:
    """All findings, the quick ones first; nothing here loads torch unless there is a GPU."""
    checks = (_engine, _python, _lock, _files, _variables, _cpu, _gpu, _disk, _docker)
    return [check() for check in checks]


def _engine() -> Finding:
    return Finding("engine", True, engine.summary().removeprefix("engine "))


def _python() -> Finding:
    ok = sys.version_info[:2] == (3, 11)
    mend = "" if ok else "; expected 3.11: install it, remove .venv, run ./workbench"
    return Finding("python", ok, environment.interpreter() + mend)


def _lock() -> Finding:
    if not environment.LOCK.exists():
        return Finding("lock", False, "no Pipfile.lock; work in a clone of the repository")
    everything = environment.installed()
    category = environment.torch_category(everything)
    slim = os.environ.get("LOCKSTEP_IMAGE", "").partition("-")[0] in ("train", "serve", "sagemaker")
    locked = environment.locked_packages("default", *([] if slim else ["develop"]), category)
    wrong = [
        f"{name} {everything.get(name, 'missing')} (locked {entry['version']})"
        for name, entry in locked.items()
        if everything.get(name) != entry["version"]
    ]
    extra = [f"{name} {version} (not in the lock)" for name, version in everything.items()]
    wrong += [line for line in extra if line.split()[0] not in locked | dict.fromkeys(_TOOLS)]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        return Finding("lock", False, f"{', '.join(wrong[:8])}{more}; run ./workbench to fix this")
    return Finding("lock", True, f"{len(locked)} packages as locked, category {category}")


def _files() -> Finding:
    """Read all that Python loads of the packages, a few seconds, and compare with their wheels."""
    names = list(environment.installed())
    if edited := wheels.edited(names, thorough=True):
        name, paths = next(iter(edited.items()))
        count = sum(map(len, edited.values()))
        return Finding(
            "files",
            False,
            f"{name}: {paths[0]} is not as its package has it ({count} such files in all); remove "
            ".venv and run ./workbench",
        )
    if linked := wheels.shared(names):
        return Finding(
            "files",
            False,
            f"{linked[0]} and {len(linked) - 1} more share files with other environments, so an "
            "edit there changes results here; remove .venv and run ./workbench",
        )
    return Finding("files", True, f"{len(names)} packages have the files of their wheels")


# Installers that come with an environment and are no part of what is locked.
_TOOLS = ("pip", "setuptools", "wheel", "lockstep")


def _variables() -> Finding:
    foreign = {
        name: found
        for name, (found, _) in profiles.differing("portable").items()
        if found is not None
    }
    if foreign:
        named = ", ".join(f"{name}={value}" for name, value in foreign.items())
        return Finding("variables", True, f"{named} are overruled by the commands; no need to act")
    return Finding("variables", True, "set by the commands as profile portable wants them")


def _cpu() -> Finding:
    cpu = environment.cpu()
    text = f"{cpu['model']}, {os.cpu_count()} cores, {' '.join(cpu['features']) or 'no AVX'}"
    if platform.machine() == "x86_64" and "avx2" not in cpu["features"]:
        return Finding("cpu", False, f"{text}; no AVX2: train with training.profile=native")
    return Finding("cpu", True, text)


# The oldest driver, by the major version of CUDA, and the oldest GPU that torch has kernels for.
_DRIVERS = {12: 525, 13: 580}
_CAPABILITY = (7, 5)


def _gpu() -> Finding:
    """Ask the driver, not torch: it says why torch would not find the GPU."""
    query = "--query-gpu=name,driver_version,compute_cap"
    listed = _answer("nvidia-smi", query, "--format=csv,noheader")
    cuda = _locked_cuda()
    needed = _DRIVERS.get(cuda, max(_DRIVERS.values()))
    if not listed:
        if Path("/dev/nvidiactl").exists():
            return Finding(
                "gpu", False, f"an NVIDIA device, but no driver answers; CUDA {cuda} needs {needed}"
            )
        return Finding("gpu", True, "no GPU; training runs on the CPU")
    name, driver, capability = [word.strip() for word in listed.split(";")[0].split(",")][:3]
    text = f"{name}, driver {driver}, capability {capability}"
    if _numbers(driver) < (needed,):
        return Finding(
            "gpu", False, f"{text}; CUDA {cuda} needs driver {needed} or newer: update the driver"
        )
    if _numbers(capability) < _CAPABILITY:
        oldest = ".".join(map(str, _CAPABILITY))
        return Finding(
            "gpu", False, f"{text}; CUDA {cuda} needs capability {oldest}: train on the CPU"
        )
    if environment.torch_category(environment.installed()) == "cpu":
        return Finding(
            "gpu", False, f"{text}, but torch is the CPU build; LOCKSTEP_TORCH=gpu ./workbench"
        )
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", False, f"{text}, but torch cannot use it; run nvidia-smi")
    return Finding("gpu", True, f"{text}, CUDA {torch.version.cuda}")


def _locked_cuda() -> int:
    """The major version of CUDA that the lock's torch for GPUs computes with; 13 without a lock."""
    entries = environment.locked_packages("gpu") if environment.LOCK.exists() else {}
    runtime = entries.get("nvidia-cuda-runtime")
    return _numbers(runtime["version"])[0] if runtime else 13


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version; (0,) if there are none, as of ``[N/A]``."""
    return tuple(map(int, re.findall(r"\d+", version)[:2])) or (0,)


def _disk() -> Finding:
    free = shutil.disk_usage(environment.ROOT).free / 1e9
    mend = "" if free > 2 else "; expected 2 GB at least: remove old runs"
    return Finding("disk", free > 2, f"{free:.1f} GB free{mend}")


def _docker() -> Finding:
    if not shutil.which("docker"):
        return Finding("docker", True, "not installed; needed only for the images")
    version = _answer("docker", "version", "--format", "{{.Server.Version}}")
    if not version:
        return Finding("docker", True, "client only, no engine answers; needed only for the images")
    return Finding("docker", True, f"engine {version}")


def _answer(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().replace("\n", "; ")
