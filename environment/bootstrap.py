"""Makes or repairs `.venv`, the environment of Pipfile.lock; ./workbench calls it, stdlib only."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.dont_write_bytecode = True  # nothing appears beside what was checked out
    sys.path.insert(0, str(Path(__file__).parent))  # python -I leaves it out

from image import COMPILE, lighten, remove_times
from installers import (
    PIP,
    default_index,
    offered_files,
    pip_settings,
    pip_variables,
    tool,
    torch_addresses,
    uv_settings,
)
from interpreter import is_fit, oldest
from lockfile import entries, export, normal, parsed, pipfile_digest
from process import (
    LOCK,
    LOG,
    PYTHON,
    ROOT,
    SITE,
    TOOLS,
    VENV,
    MismatchError,
    NotOfferedError,
    SetUpError,
    content,
    output,
    remove,
    run,
    runs,
    say,
    wait_for_others,
    write_atomically,
)

import wheelhouse

REQUIREMENTS = VENV / "requirements.txt"  # what uv installs
# Root, kind of torch and, in an image, that word; a line each; there only while .venv is whole.
STAMP = VENV / "stamp"
STAMPED_LOCK = VENV / "Pipfile.lock"  # what .venv was made from


class Image(NamedTuple):
    """What an image's environment holds besides the locked packages."""

    dev: bool  # the dev-packages and the installers
    compiled: bool  # bytecode


def main() -> int:
    try:
        set_up(options(sys.argv[1:]))
    except SetUpError as error:
        say(str(error))
        return 2
    except OSError as error:
        say(f"{error.filename or VENV}: {error.strerror}; correct that, then run the command again")
        return 2
    except KeyboardInterrupt:
        say("interrupted; run the same command again to finish")
        return 130
    return 0


def options(words: Sequence[str]) -> Image | None:
    """Parse the command line: an image's environment, or None for a working one."""
    parser = argparse.ArgumentParser(prog="bootstrap.py", description=__doc__)
    parser.add_argument(
        "--image", action="store_true", help="from scratch, and only what training reads"
    )
    parser.add_argument("--dev", action="store_true", help="with --image: all that is locked")
    parser.add_argument("--compile", action="store_true", help="with --image: bytecode as well")
    chosen = parser.parse_args(words)
    if not chosen.image and (chosen.dev or chosen.compile):
        parser.error("--dev and --compile go with --image")
    return Image(chosen.dev, chosen.compile) if chosen.image else None


def set_up(image: Image | None = None) -> None:
    """Bring `.venv` to what Pipfile.lock says.

    The stamp is removed first and written last. Where it is missing, or names another folder or
    another torch, everything is made from scratch: what an interrupted installer left cannot be
    trusted. An image's environment is always made from scratch.
    """
    VENV.mkdir(exist_ok=True)
    wait_for_others()
    text = (ROOT / "Pipfile.lock").read_text()
    lock = parsed(text)
    folder, present_torch = read_stamp()
    torch = choose_torch(present_torch)
    whole = not image and (folder, present_torch) == (str(ROOT), torch) and runs(PYTHON)
    if whole and content(STAMPED_LOCK) == text:
        return  # made by the call that this one waited for
    if importlib.util.find_spec("ensurepip") is None:
        raise SetUpError(
            f"{sys.executable}: module ensurepip not found; add it (Debian: apt-get install"
            " python3.11-venv) or set LOCKSTEP_PYTHON to another Python 3.11"
        )
    if not is_fit():
        raise SetUpError(
            f"{sys.executable}: found Python {platform.python_version()}, expected {oldest()} or a"
            " newer 3.11, which packages of Pipfile.lock need; set LOCKSTEP_PYTHON to one"
        )
    started = time.monotonic()
    dev = () if image and not image.dev else ("dev-packages",)
    categories = ("packages", *dev, torch)
    with wheelhouse.installing(lock, categories):
        STAMP.unlink(missing_ok=True)
        if whole:
            say("Pipfile.lock has changed, updating .venv")
        else:
            say(f"making .venv with Python {platform.python_version()} and torch for {torch}")
            clear()
            venv.create(VENV, symlinks=True, prompt=ROOT.name)
        LOG.write_bytes(b"")
        check_digest(lock, refuse=image is not None)
        install(lock, categories)
    write_atomically(SITE / "lockstep.pth", f"{ROOT}\n")  # the clone's packages, in any folder
    if image:
        finish(image)
    write_atomically(STAMPED_LOCK, text)
    write_atomically(STAMP, f"{ROOT}\n{torch}\n" + ("image\n" if image and not image.dev else ""))
    say(f".venv is ready ({time.monotonic() - started:.0f} s)")


def check_digest(lock: dict[str, Any], refuse: bool) -> None:
    """Warn that the lock is of another Pipfile; for an image, refuse it."""
    locked = lock.get("_meta", {}).get("hash", {}).get("sha256", "")
    digest = pipfile_digest((ROOT / "Pipfile").read_text(), default_index())
    if locked == digest:
        return
    line = f"Pipfile.lock: made from another Pipfile (found {locked[:8]}, expected {digest[:8]})"
    if refuse:
        raise SetUpError(f"{line}; run `invoke lock`, then build again")
    say(f"{line}; installing what is locked, `invoke lock` updates it")


def finish(image: Image) -> None:
    """Leave what is needed and is the same in every build: no log, no caches, no installers."""
    if not image.dev:
        say(f"removed what training never reads: {lighten(SITE) / 1e6:.0f} MB")
        remove(TOOLS)
    remove_times(SITE)
    for cache in sorted(VENV.rglob("__pycache__")):
        remove(cache)
    if image.compiled:
        run("compiling", (PYTHON, "-c", COMPILE, SITE))
    for path in (LOG, REQUIREMENTS, VENV / ".lock"):  # the last is uv's
        remove(path)


def read_stamp() -> tuple[str, str]:
    lines = content(STAMP).splitlines()
    return (lines[0], lines[1]) if len(lines) == 2 else ("", "")


def clear() -> None:
    """Empty `.venv`; the folder itself stays, it may be a mounted volume, and so do the lock, the
    tools, which have stamps of their own, and the wheels to install."""
    for path in VENV.iterdir():
        if path not in (LOCK, TOOLS, wheelhouse.UNPACKED):
            remove(path)


def choose_torch(present: str) -> str:
    """LOCKSTEP_TORCH, else what is there, else gpu where there is an NVIDIA device.

    macOS has the plain wheel alone, which is gpu's; it computes on the CPU there.
    """
    choice = one_of("LOCKSTEP_TORCH", "cpu", "gpu")
    if sys.platform == "darwin":
        if choice == "cpu":
            raise SetUpError(
                "LOCKSTEP_TORCH: found 'cpu', expected none on macOS, whose only torch computes on "
                "the CPU; unset it"
            )
        return "gpu"
    return choice or present or ("gpu" if has_nvidia_device() else "cpu")


def has_nvidia_device() -> bool:
    """Whether CUDA may work here. WSL 2 has one device for the GPUs of all makers."""
    if Path("/dev/nvidiactl").exists():
        return True
    drivers = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")
    return Path("/dev/dxg").exists() and any(output(smi, "--list-gpus") for smi in drivers)


def one_of(variable: str, *choices: str) -> str:
    """Return a variable's value, "" if it is not set. Raises SetUpError for any but the choices."""
    value = os.environ.get(variable, "")
    if value and value not in choices:
        known = " or ".join(choices)
        raise SetUpError(f"{variable}: found {value!r}, expected {known}; correct or unset it")
    return value


def install(lock: dict[str, Any], categories: Sequence[str]) -> None:
    """Install with uv, or with the slower pipenv where uv is not offered; both check hashes."""
    installer = one_of("LOCKSTEP_INSTALLER", "uv", "pipenv")
    try:
        if installer != "pipenv":
            try:
                return with_uv(lock, categories)
            except NotOfferedError as reason:
                if installer == "uv":
                    raise
                say(f"{reason}. Continuing with pipenv")
        with_pipenv(lock, categories)
    except MismatchError as error:
        refuse_other_platform(error.pin, entries(lock, categories))
        raise


def refuse_other_platform(pin: str, locked: dict[str, Any]) -> None:
    """Raise SetUpError if all that is locked of a package are files of other platforms.

    A locked digest that no index offers may be that of the true file for this platform, so then the
    file that was found is not excused.
    """
    name = pin.partition("==")[0]
    same = [entry for key, entry in locked.items() if normal(key) == normal(name)]
    hashes = {digest.removeprefix("sha256:") for entry in same for digest in entry["hashes"]}
    here = offered_files(pin, locked.get("torch", {}), universal=False)
    anywhere = offered_files(pin, locked.get("torch", {}), universal=True)
    if here and hashes and not hashes & here.keys() and hashes <= anywhere.keys():
        digest, file = next(iter(here.items()))
        others = ", ".join(sorted(anywhere[one] for one in hashes))
        raise SetUpError(
            f"{pin}: Pipfile.lock has no sha256 of its file for this platform, {file} (it has "
            f"{others}); if sha256:{digest} is right by a source that you trust, add it to the "
            f"hashes of {name} in Pipfile.lock, then try again"
        )


def with_uv(lock: dict[str, Any], categories: Sequence[str]) -> None:
    """`uv pip sync`, from requirements with hashes."""
    uv = tool("uv")
    REQUIREMENTS.write_text(export(lock, categories))
    settings, variables = uv_settings(entries(lock, categories).get("torch", {}))
    command: list[str | Path] = [uv, "pip", "sync", "--python", PYTHON, *settings]
    command += ["--require-hashes", "--no-build", REQUIREMENTS]
    # No hard links into a cache: an edit in one clone would change the results of all others.
    command += ["--link-mode", "copy"]
    run("installing the locked packages with uv", command, **variables)


def with_pipenv(lock: dict[str, Any], categories: Sequence[str]) -> None:
    """`pipenv sync`, which leaves what the lock no longer has, so that is removed here."""
    pipenv = tool("pipenv")
    links = [
        *pip_settings().get("find-links", "").split(),
        *torch_addresses(entries(lock, categories).get("torch", {})),
    ]
    run(
        "installing the locked packages with pipenv",
        [pipenv, "sync", "--categories", " ".join(categories)],
        PIPENV_PIPFILE=str(ROOT / "Pipfile"),
        PIPENV_VENV_IN_PROJECT="1",
        PIPENV_IGNORE_VIRTUALENVS="1",
        PIPENV_DONT_LOAD_ENV="1",
        PIPENV_NOSPIN="1",
        **pip_variables() | {"PIP_FIND_LINKS": " ".join(links), "PIP_ONLY_BINARY": ":all:"},
    )
    locked = {normal(name) for name in entries(lock, categories)}
    present = {normal(one.name) for one in importlib.metadata.distributions(path=[str(SITE)])}
    if extra := sorted(present - locked):
        pip = (*PIP, "--python", PYTHON)
        run("removing what is not locked", (*pip, "uninstall", "--yes", *extra))


if __name__ == "__main__":
    sys.exit(main())
