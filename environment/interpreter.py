"""Which Python is fit for `.venv`, and one by uv where there is none.

``interpreter.py`` prints the version of the Python that runs it, and exits with 1 if it is not fit.
``interpreter.py --install SEEN`` prints the path of a Python that the pinned uv has installed.
This runs in whatever Python there is, 3.7 or newer, and so imports no module beside it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEXT = (
    "set UV_PYTHON_INSTALL_MIRROR to a mirror of uv's downloads, or LOCKSTEP_PYTHON to a Python"
    " 3.11 (Debian, Ubuntu: apt-get install python3-venv, if module venv is missing; macOS: brew"
    " install python@3.11)"
)


def main() -> int:
    if len(sys.argv) == 1:
        print(version())
        return 0 if is_fit() else 1
    try:
        print(install(sys.argv[2]))
    except (RuntimeError, OSError) as error:
        say(f"Python 3.11: could not be installed ({error}); {NEXT}")
        return 2
    return 0


def say(line: str) -> None:
    print(f"workbench: {line}", file=sys.stderr, flush=True)


def version() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def oldest() -> str:
    """The oldest Python 3.11 that gets all of Pipfile.lock; an older one would lack packages."""
    text = (ROOT / "Pipfile.lock").read_text()
    patches = re.findall(r"python_full_version >= '3\.11\.(\d+)'", text)
    return f"3.11.{max(map(int, patches), default=0)}"


def is_fit() -> bool:
    """Whether the Python that runs this can have an environment of Pipfile.lock."""
    least = tuple(int(part) for part in oldest().split("."))
    return least <= sys.version_info[:3] < (3, 12)


def install(seen: str) -> str:
    """Install a Python with uv, where uv keeps its own; return its path.

    ``seen`` are the Pythons that are not fit. Raises RuntimeError with what a command said.
    """
    wanted = f">={oldest()},<3.12"
    say(f"Python {wanted}: not found ({seen}); installing one with uv")
    variables = {k: v for k, v in os.environ.items() if k not in ("PIP_TARGET", "PIP_PREFIX")}
    variables.update(PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    pins = (ROOT / "environment" / "bootstrap.txt").read_text()
    with tempfile.TemporaryDirectory() as folder:
        requirements, programs = Path(folder) / "uv.txt", Path(folder) / "bin"
        requirements.write_text("\n".join(re.findall(r"^uv==(?:.*\\\n)*.*$", pins, re.MULTILINE)))
        run(variables, sys.executable, "-I", "-m", "venv", folder)
        how = ("--only-binary", ":all:", "--require-hashes", "-r", str(requirements))
        run(variables, str(programs / "python"), "-m", "pip", "install", *how)
        uv = str(programs / "uv"), "python"
        run(variables, *uv, "install", "--no-bin", wanted)
        return run(variables, *uv, "find", "--managed-python", "--no-project", wanted)


def run(variables: dict[str, str], *command: str) -> str:
    """What a command prints. Raises RuntimeError with the last line of one that failed."""
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        name = " ".join([Path(command[0]).name, *command[1:4]])
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
        raise RuntimeError(f"{name}: {lines[-1].strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
