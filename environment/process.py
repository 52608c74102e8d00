"""What the scripts in this folder share: paths in `.venv`, files, and processes; stdlib only."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
SITE = VENV / "lib" / "python3.11" / "site-packages"
TOOLS = VENV / "tools"  # uv and pipenv, apart from what they install
LOCK = VENV / "lock"  # locked by the process that changes .venv
LOG = VENV / "setup.log"

# What an installer prints when it fails (its group is the thing it names), the cause in our words,
# and the next move. The first that matches counts.
NOT_OFFERED = "a package is not offered"
MISMATCH = "found a file with another sha256 than in Pipfile.lock"
CAUSES = (
    (r"(no space left|disk quota).*", "the disk is full", "free some space"),
    (
        r"hash mismatch for `(.+?)`|do not match the hashes[\s\S]+?^ +([\w.-]+==\S+)",
        MISMATCH,
        "ask who runs the package index, or run `invoke lock --upgrade` if the new file is right",
    ),
    (
        r"failed to fetch: `?([^\s`]+)|connection broken by .+: (\S+)$",
        "no package index answered",
        "check the network and pip's index-url, proxy, cert, find-links (pip config list)",
    ),
    (
        r"no solution found[\s\S]+?because ([\s\S]+? depends on [\s\S]+?)(?:, we can conclude|\Z)",
        "the versions exclude each other",
        "choose another version of one of them",
    ),
    (
        r"no matching distribution found for (\S+)|there is no version of (\S+)"
        r"|(\S+) was not found|(\S+) has no (?:usable )?wheels",
        NOT_OFFERED,
        "check its name, and pip's index-url and find-links (pip config list)",
    ),
)


class SetUpError(Exception):
    """A mistake that the user can correct; the message is one line."""


class NotOfferedError(SetUpError):
    """A package is not offered for this machine, or an installer does not run on it."""


class MismatchError(SetUpError):
    """A package's file is none of those in the lock; ``pin`` is its name and version."""

    def __init__(self, message: str, pin: str) -> None:
        super().__init__(message)
        self.pin = pin


def say(line: str) -> None:
    """Print to stderr: stdout belongs to the task."""
    print(f"workbench: {line}", file=sys.stderr, flush=True)


def content(path: Path) -> str:
    """The text of a file, empty if there is none."""
    return path.read_text() if path.exists() else ""


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    write_together({path: text})


def write_together(texts: Mapping[Path, str]) -> None:
    """Replace files; all texts are on the disk before the first file changes."""
    asides = {path: path.with_name(path.name + ".new") for path in texts}
    for path, text in texts.items():
        with asides[path].open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    for path, aside in asides.items():
        aside.replace(path)


def wait_for_others() -> None:
    """Take the lock as standard input, so that every process started from here on inherits it.

    An installer that outlives a killed launcher then still holds it, whoever started it, and the
    next launcher waits. To those who read it the lock is an empty file.
    """
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another set-up of .venv is running, waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.dup2(lock, 0)
    os.close(lock)


def environment(**variables: str | None) -> dict[str, str]:
    """Variables for an installer: without those that mislead Python or pip, and those of None."""
    changed = dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"))
    # Some hosts have pip install elsewhere (Gitpod sets PIP_USER); here it installs into .venv.
    changed |= dict.fromkeys(("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")) | {"PIP_USER": "0"}
    changed |= dict.fromkeys(("UV_CONSTRAINT", "UV_EXCLUDE_NEWER", "UV_NO_BINARY", "UV_OVERRIDE"))
    changed |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"} | variables
    merged = {**os.environ, **changed}
    return {name: value for name, value in merged.items() if value is not None}


def output(*command: str | Path, **variables: str | None) -> str:
    """What a command prints, whether it succeeds or not; nothing if there is no such command."""
    try:
        done = subprocess.run(command, env=environment(**variables), capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout


def runs(program: Path) -> bool:
    """Whether a program answers to --version."""
    try:
        done = subprocess.run([program, "--version"], env=environment(), capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def run(step: str, command: Sequence[str | Path], **variables: str | None) -> None:
    """Run an installer: on a terminal it shows its progress, else it writes to the log.

    One that failed on a terminal is tried once more, with its output in the log, where the cause
    can be read.
    """
    if sys.stderr.isatty():
        try:
            return _run(step, command, variables, terminal=True)
        except SetUpError:
            step = f"{step}, once more"
    _run(step, command, variables, terminal=False)


def run_quietly(step: str, command: Sequence[str | Path], **variables: str | None) -> None:
    """Run an installer with its output in the log."""
    _run(step, command, variables, terminal=False)


def _run(
    step: str, command: Sequence[str | Path], variables: Mapping[str, str | None], terminal: bool
) -> None:
    say(step)
    started = time.monotonic()
    with LOG.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**variables),
            stdout=sys.stderr if terminal else log,
            stderr=sys.stderr if terminal else log,
        )
        while True:
            try:
                code = process.wait(timeout=5)
                break
            except subprocess.TimeoutExpired:
                if not terminal:
                    say(f"{step}: {time.monotonic() - started:.0f} s")
    if code:
        raise failure(step, code, LOG.read_bytes()[begin:].decode(errors="replace"), terminal)


def failure(step: str, code: int, printed: str, terminal: bool) -> SetUpError:
    """Explain an installer's failure, from its own output or the state of the disk."""
    log = "its output is above" if terminal else f"the whole log is {LOG}"
    if shutil.disk_usage(VENV).free < 2**24:
        printed += "\nno space left"
    for pattern, cause, next_move in CAUSES:
        if match := re.search(pattern, printed, re.IGNORECASE | re.MULTILINE):
            thing = " ".join(next(filter(None, match.groups()), "").split())[:200]
            message = f"{step}: {cause} ({thing}); {next_move}, then try again; {log}"
            if cause == MISMATCH:
                return MismatchError(message, thing.replace("===", "=="))
            return (NotOfferedError if cause == NOT_OFFERED else SetUpError)(message)
    last = printed.strip().rpartition("\n")[2][:200]
    return SetUpError(f"{step}: exit code {code} ({last}); try again; {log}")
