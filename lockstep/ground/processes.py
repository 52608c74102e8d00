"""What a process owes to the one that started it."""

import ctypes
import os
import signal
import sys


def follow_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent dies; on Linux only.

    So what was started saves and ends also when its starter is killed. As ``preexec_fn`` of a
    child, or called by the child itself.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def is_worker() -> bool:
    """Whether torchrun, or another starter that sets its variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ
