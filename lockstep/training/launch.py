"""Starts a run's workers on this machine, by torchrun, and says how they ended."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lockstep.ground.errors import Interrupted, LockstepError
from lockstep.ground.processes import follow_parent, is_worker

_OUTCOME = "LOCKSTEP_OUTCOME"  # folder in which the workers leave what they have to say at the end
_RESTARTS = 3  # without another checkpoint, before a killed worker is taken for a lasting fault
_GRACE = 120  # seconds to save after a signal, as most clusters give; torchrun's own are 30
_GRACE_OF_TORCHRUN = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"


def count(wanted: int, shards: int, device: str) -> int:
    """Return how many workers to start here: ``wanted``, or for 0 one for each core or GPU.

    Not more than it takes to be as fast: of 8 shards, the busiest of 6 workers has two, as of 4.
    """
    most = -(-shards // _places(device))  # shards of the busiest worker
    return wanted or -(-shards // most)


def _places(device: str) -> int:
    if device == "cuda":
        import torch

        return max(torch.cuda.device_count(), 1)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:  # a container may have fewer than it sees
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def by_torchrun(workers: int, words: Sequence[str]) -> int:
    """Run ``python -m lockstep`` with these words in so many workers; return the exit code.

    Workers are started again when one of them was killed. SIGTERM and SIGINT are handed on, and
    Interrupted is raised when they have saved. Raises LockstepError with what a worker could not
    do; an error in the model's code is printed with its traceback, once, and the code is 1.
    """
    received: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, _: object) -> None:
        if not received and children:  # torchrun kills what does not end by itself
            children[-1].send_signal(signal.SIGTERM)
        received.append(number)

    handed = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, hand_on) for number in handed]
    try:
        return _until_they_end(workers, words, children, received)
    finally:
        for number, handler in zip(handed, before, strict=True):
            signal.signal(number, handler)


def _until_they_end(
    workers: int,
    words: Sequence[str],
    children: list["subprocess.Popen[bytes]"],
    received: list[int],
) -> int:
    """Start the workers, and again while they make progress; add each torchrun to ``children``."""
    saved, restarts = -1, 0
    while True:
        with TemporaryDirectory(prefix="lockstep-workers-") as folder:
            # A session of its own: Ctrl-C reaches us alone, and we hand it on, once.
            child = subprocess.Popen(
                [*_torchrun(workers, folder), *words],
                env=_variables(folder),
                start_new_session=True,
                preexec_fn=follow_parent,
            )
            children.append(child)
            if received:  # between two starts
                child.send_signal(signal.SIGTERM)
            code, outcome = child.wait(), Outcome(Path(folder))
        if outcome.bugs:
            print(outcome.bugs[0], end="", file=sys.stderr)
            return 1
        if outcome.errors:
            raise LockstepError("\n".join(sorted(set(outcome.errors))))
        if received or outcome.stops:
            stops = outcome.stops or ["stopped; the last checkpoint stays"]
            raise Interrupted(received[0] if received else signal.SIGTERM, stops[0])
        if code == 0:
            return 0
        restarts = 1 if outcome.saved > saved else restarts + 1
        saved = max(saved, outcome.saved)
        if restarts > _RESTARTS:
            raise LockstepError(
                f"workers: {outcome.death} {restarts} times without another checkpoint; the last "
                "good one is kept. If memory is short, start fewer (--workers 1); then run the "
                "same command again."
            )
        print(
            f"workers: {outcome.death}; starting all again from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )


def _torchrun(workers: int, folder: str) -> list[str]:
    command = [sys.executable, "-m", __name__, f"--nproc-per-node={workers}", "--nnodes=1"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=localhost"]
    # It would start workers again whatever they ended of, and a few times in the life of a run.
    command += ["--max-restarts=0", f"--log-dir={folder}/log"]
    return [*command, "--module", "lockstep"]


class Outcome:
    """What workers left in their folder: what ended them, and the last step that was saved."""

    def __init__(self, folder: Path):
        said = [json.loads(path.read_bytes()) for path in sorted(folder.glob("[!.]*-*"))]
        self.bugs, self.errors, self.stops = (
            [text for kind, text in said if kind == wanted] for wanted in ("bug", "error", "stop")
        )
        steps, death = folder / "saved", folder / "death"
        self.saved = int(steps.read_text() or 0) if steps.exists() else 0
        self.death = death.read_text() if death.exists() else "they were killed"


def _variables(folder: str) -> dict[str, str]:
    """The environment of workers on this machine that leave their last words in a folder."""
    package = str(Path(__file__).parents[2])
    return os.environ | {
        _OUTCOME: folder,
        _GRACE_OF_TORCHRUN: os.environ.get(_GRACE_OF_TORCHRUN, str(_GRACE)),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        # Otherwise the workers share torchrun's own store, which ends with it (torch 2.13).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


def rank() -> int:
    """The number of this process among the workers; 0 if it was started alone."""
    return int(os.environ["RANK"]) if is_worker() else 0


def is_watched() -> bool:
    """Whether ``by_torchrun`` started this process and waits for it."""
    return is_worker() and _OUTCOME in os.environ


def note(end: BaseException) -> int:
    """Leave word of what ended this worker for those who wait for it; return the exit code.

    It is 0 for a stop, as torchrun ends the others when one fails, which have yet to save.
    """
    kind = "stop" if isinstance(end, Interrupted) else "error"
    _leave(f"{kind}-{rank()}", json.dumps([kind, str(end)]))
    return 0 if kind == "stop" else 2


def note_bug(traceback: str) -> int:
    """Leave the traceback of an error in the code that is trained; return the exit code."""
    _leave(f"bug-{rank()}", json.dumps(["bug", traceback]))
    return 1


def note_saved(step: int) -> None:
    """Leave word that a checkpoint of this step is written, which is what counts as progress."""
    _leave("saved", str(step))


def _leave(name: str, text: str) -> None:
    folder = Path(os.environ[_OUTCOME])
    part = folder / f".{name}"
    part.write_text(text)
    os.replace(part, folder / name)  # whole, as this process may be killed at any moment


def main() -> int:
    """torchrun, without its tracebacks: what a worker has to say, it says itself."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun(sys.argv[1:])
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        if _OUTCOME in os.environ:
            first = min(error.failures.values(), key=lambda failure: failure.exitcode >= 0)
            killed = f"was killed by {first.signal_name()}"
            ended = killed if first.exitcode < 0 else f"ended with exit code {first.exitcode}"
            _leave("death", f"worker {first.local_rank} {ended}")
        return 1
    except RendezvousError as error:
        text = f"workers: did not find each other ({error.__cause__ or error})"
        if _OUTCOME in os.environ:
            _leave("error-torchrun", json.dumps(["error", text]))
        else:
            print(f"error: {text}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
