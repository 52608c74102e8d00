"""The background process that keeps the view up to date, at the lowest priority.

A training starts it and never waits for it. Neither depends on the other.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from lockstep.ground.errors import LockstepError, SettingError, TrackingError
from lockstep.ground.files import is_held, write_atomically
from lockstep.ground.watch import Watch
from lockstep.records.run import Run, runs
from lockstep.tracking.view import HOME, address, home, refuse_unreachable, sync

SWITCH = "LOCKSTEP_TRACK"
T = TypeVar("T")
_LOG, _PROBLEM = "log", "problem"
_TRIES = 8  # when nothing trains any more: four minutes
_LONGEST = 60.0  # seconds between two looks
_NOT_ITS = ("RANK", "WORLD_SIZE", "LOCKSTEP_OUTCOME")  # variables of workers


def start(folder: Path) -> bool:
    """Start a follower for a runs folder in which a training is about to begin; whether it is.

    None starts where MLflow is not installed or LOCKSTEP_TRACK is ``off``. It does nothing before
    a first checkpoint is there, and ends if another follows this folder already.
    """
    if (switch := os.environ.get(SWITCH, "on")) not in ("on", "off"):
        raise SettingError(f"{SWITCH}: found {switch!r}, expected on or off.")
    if switch == "off" or not find_spec("mlflow"):
        return False
    package = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    variables = {name: value for name, value in os.environ.items() if name not in _NOT_ITS}
    words = ["track", "--follow", "--started-by", str(os.getpid()), "--runs", str(folder)]
    try:
        (folder / HOME).mkdir(parents=True, exist_ok=True)
        with (folder / HOME / _LOG).open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "lockstep", *words],
                env=variables | {"PYTHONPATH": paths},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    except OSError:  # a folder that cannot be written; training has better words for that
        return False
    return True


def problem(folder: Path) -> str:
    """Return why the view is not up to date, in one line; empty if it is."""
    try:
        return (folder / HOME / _PROBLEM).read_text().strip()
    except OSError:
        return ""


def send(folder: Path, watch: Watch) -> list[str]:
    """Send now what is missing; the names of these runs. Who follows the folder learns of it.

    Raises what ``sync`` raises.
    """
    return _try(folder, partial(sync, folder, watch))


def follow(folder: Path, watch: Watch, starter: int = 0) -> None:
    """Keep the view of a folder up to date until no run in it is running and nothing is missing.

    As long as something runs, what fails is tried again, then eight times more. ``starter`` is the
    process that started this one and will train: before it has saved, nothing is done.
    """
    _step_back()
    with contextlib.suppress(TrackingError):
        _try(folder, partial(refuse_unreachable, address(folder)))
    if starter and not _has_begun(folder, starter):
        return
    seen: dict[str, str] | None = None
    # Who finds it taken relies on the other, who looks once more after letting it go.
    while folder.exists() and seen != marks(folder):
        with _alone(folder) as alone:
            if not alone:
                return
            seen = _follow(folder, watch)


def _follow(folder: Path, watch: Watch) -> dict[str, str]:
    """Send until nothing runs; the marks of what was sent, or could not be."""
    seen: dict[str, str] = {}
    failed = 0
    while True:
        began = time.monotonic()
        now = marks(folder)
        if changed := {name for name, mark in now.items() if seen.get(name) != mark}:
            try:
                _try(folder, partial(sync, folder, watch, changed))
                seen, failed = now, 0
            except LockstepError as error:
                watch.say(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {error}")
                failed += 1
        else:
            failed = 0  # what could not be sent was removed
        if not _running(now) and (failed > _TRIES or not failed):
            return now
        took = time.monotonic() - began
        _rest(folder, now, min(2.0 ** failed if failed else max(2.0, 5 * took), _LONGEST))


def _running(found: dict[str, str]) -> set[str]:
    return {name for name, mark in found.items() if mark.startswith("running")}


def _rest(folder: Path, last: dict[str, str], seconds: float) -> None:
    """Wait so long, or until a training begins or ends, or another sends what we could not."""
    end, problematic = time.monotonic() + seconds, bool(problem(folder))
    while (began := time.monotonic()) < end:
        if _running(marks(folder)) != _running(last) or (problematic and not problem(folder)):
            return
        time.sleep(max(1.0, 20 * (time.monotonic() - began)))  # many runs are looked at less often


def _try(folder: Path, send: Callable[[], T]) -> T:
    """Send, and leave word of it for who asks for the ``problem``."""
    note = folder / HOME / _PROBLEM
    try:
        sent = send()
        note.unlink(missing_ok=True)
        return sent
    except LockstepError as error:
        with contextlib.suppress(LockstepError):
            write_atomically(note, f"{error}\n".encode())
        raise


def marks(folder: Path) -> dict[str, str]:
    """How far each run is, by its name."""
    found = {}
    for run in runs(folder):
        with contextlib.suppress(OSError):  # it was removed just now
            found[run.name] = _mark(run)
    return found


def _mark(run: Run) -> str:
    receipt = run.folder / "receipt.json"
    if receipt.exists():
        return f"finished {receipt.stat().st_mtime_ns}"
    step = run.last_step
    state = "running" if is_held(run.folder) else "failed" if run.failure else "stopped"
    return f"{state} {step}"


def _saved(folder: Path) -> set[tuple[str, str]]:
    """Each run that has saved anything, with its newest file of that kind."""
    steps = {(name, mark.partition(" ")[2]) for name, mark in marks(folder).items()}
    return {(name, step) for name, step in steps if step != "0"}


def _has_begun(folder: Path, starter: int) -> bool:
    """Wait until a run in the folder has saved again, or the starting process has ended."""
    before = _saved(folder)
    while not (begun := _saved(folder) - before) and os.getppid() == starter:
        time.sleep(0.5)
    return bool(begun or _saved(folder) - before)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Be the one who follows a folder, if there is none yet; whether we are."""
    with (home(folder) / _LOG).open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        yield alone


def _step_back() -> None:
    """Run at the lowest priority."""
    os.nice(19)
    with contextlib.suppress(OSError, AttributeError):  # the latter where there is no Linux
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        # Linux shares a processor between sessions first, so ours is made nice where it is ours.
        if os.getsid(0) == os.getpid():
            Path("/proc/self/autogroup").write_text("19")
