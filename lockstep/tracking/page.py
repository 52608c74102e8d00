"""MLflow's page, on this machine only."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lockstep.ground.errors import LockstepError, TrackingError
from lockstep.ground.processes import follow_parent
from lockstep.ground.watch import Watch
from lockstep.tracking.follower import marks
from lockstep.tracking.view import HOME, VARIABLES, address, sync

# It would start eight more processes, for jobs that nobody gives it.
_VARIABLES = VARIABLES | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
_PATIENCE = 120  # seconds; a first start makes the tables


def show(folder: Path, port: int, watch: Watch, tell: Callable[[str], None]) -> None:
    """Bring the view up to date and show it until a signal asks to stop; ``tell`` gets its address.

    What runs meanwhile is followed. Where the view is on a server, its address is all. Raises
    TrackingError if the port is taken or the page does not come up.
    """
    place = address(folder)
    if place.startswith(("http://", "https://")):
        sync(folder, watch)
        return tell(place)
    _refuse_taken(port)
    sync(folder, watch)
    seen = marks(folder)
    with _stoppable(), _server(folder, place, port) as server:
        tell(f"http://127.0.0.1:{port}")
        while server.poll() is None:
            time.sleep(2)
            now = marks(folder)
            if changed := {name for name, mark in now.items() if seen.get(name) != mark}:
                try:
                    sync(folder, Watch(), changed)
                    seen = now
                except LockstepError as error:
                    watch.say(f"warning: {error}")
    raise TrackingError(f"the page ended with exit code {server.returncode}; {_why(folder)}.")


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(
                f"--port: {port} is not available ({error.strerror}), expected a free one; stop"
                " what listens there, or name another: invoke ui --port N"
            ) from error


@contextmanager
def _server(folder: Path, place: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server when it answers; ended afterwards, with all that it started."""
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--workers", "1", "--artifacts-destination", (folder / "mlartifacts").as_uri()]
    # Not as a word, which anybody could read: a database's address may hold a password.
    variables = os.environ | _VARIABLES | {"MLFLOW_BACKEND_STORE_URI": place}
    with (folder / HOME / "page.log").open("wb") as log:
        child = subprocess.Popen(
            words,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=follow_parent,
        )
    try:
        patience = time.monotonic() + _PATIENCE
        while not _answers(port):
            if child.poll() is not None or time.monotonic() > patience:
                raise TrackingError(f"the page did not come up; {_why(folder)}.")
            time.sleep(0.1)
        yield child
    finally:
        try:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        except ProcessLookupError:
            child.wait()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        return True
    except (urllib.error.URLError, OSError):
        return False


def _why(folder: Path) -> str:
    return f"see {folder / HOME / 'page.log'}"


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end what is inside, in order."""

    class Stop(BaseException):
        """A signal asked to stop."""

    def stop(*_: object) -> None:
        raise Stop

    before = [signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        yield
    except Stop:
        sys.exit(0)
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
