"""Starts a run's workers on this machine, by torchrun, and tells how they ended."""

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
_RESTARTS = 3  # after a worker died, before it is taken for a fault that comes again


def count(wanted: int, shards: int, device: str) -> int:
    """How many workers to start here: as wanted, or for 0 one for each core or GPU."""
    return wanted or 1 << (min(_places(device), shards).bit_length() - 1)


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
    """Run ``python -m lockstep`` with these words in so many workers; the exit code.

    torchrun starts them again when one of them dies. SIGTERM and SIGINT are handed on, and
    Interrupted is raised when they have saved. Raises LockstepError with what they complained of.
    """
    command = [sys.executable, "-m", __name__, f"--nproc-per-node={workers}", "--nnodes=1"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=localhost"]
    received: list[int] = []

    def hand_on(number: int, _: object) -> None:
        if not received:  # torchrun kills what does not end by itself
            child.send_signal(signal.SIGTERM)
        received.append(number)

    with TemporaryDirectory(prefix="lockstep-workers-") as folder:
        command += [
            f"--max-restarts={_RESTARTS}",
            f"--log-dir={folder}/log",
            "--module",
            "lockstep",
        ]
        # A session of its own: Ctrl-C reaches us alone, and we hand it on, once.
        child = subprocess.Popen(
            [*command, *words],
            env=_variables(folder),
            start_new_session=True,
            preexec_fn=follow_parent,
        )
        handed = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, hand_on) for number in handed]
        code = child.wait()
        for number, handler in zip(handed, before, strict=True):
            signal.signal(number, handler)
        said = [json.loads(path.read_bytes()) for path in sorted(Path(folder).glob("*-*"))]
    if errors := {text for kind, text in said if kind == "error"}:
        raise LockstepError("\n".join(sorted(errors)))
    if received:
        stops = [text for kind, text in said if kind == "stop"]
        raise Interrupted(received[0], stops[0] if stops else "stopped before it could save")
    if code:
        raise LockstepError(
            f"workers: they died {_RESTARTS + 1} times, the reasons stand above; the last good "
            "checkpoint is kept. Mend the cause, or try --workers 1."
        )
    return 0


def _variables(folder: str) -> dict[str, str]:
    """The environment of workers on this machine that leave their last words in a folder."""
    package = str(Path(__file__).parents[2])
    return os.environ | {
        _OUTCOME: folder,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        # Else torchrun keeps one store for all its starts, and workers that are started anew find
        # the addresses of the dead in it (torch 2.13).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


def rank() -> int:
    """The number of this process among the workers; 0 if it was started alone."""
    return int(os.environ["RANK"]) if is_worker() else 0


def is_watched() -> bool:
    """Whether ``by_torchrun`` started this process and waits for it."""
    return is_worker() and _OUTCOME in os.environ


def note(end: Exception) -> int:
    """Leave word of what ended this worker for those who wait for it; the exit code.

    It is 0, because torchrun would start it again: in vain for a mistake, and unasked for a stop.
    """
    kind = "stop" if isinstance(end, Interrupted) else "error"
    Path(os.environ[_OUTCOME], f"{kind}-{rank()}").write_text(json.dumps([kind, str(end)]))
    return 0


def main() -> int:
    """torchrun, without its tracebacks: what a worker has to say, it says itself."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    try:
        torchrun(sys.argv[1:])
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError:
        return 1
    except RendezvousError as error:
        reason = error.__cause__ or error
        print(f"error: workers: did not find each other ({reason})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
