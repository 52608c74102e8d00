"""Parent and child processes."""

import ctypes
import os
import signal
import sys


def follow_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent dies (Linux only).

    So a child saves and ends even when its parent is killed. Use it as ``preexec_fn`` of a
    child, or call it in the child itself.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def is_worker() -> bool:
    """Whether torchrun, or another starter that sets its variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ
