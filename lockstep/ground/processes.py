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


# What a program needs to run as usual; whatever else is set may be a key or lead to one.
_FOR_OTHERS = {
    *("HOME", "LOGNAME", "USER", "SHELL", "PATH", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV"),
    *("LANG", "LANGUAGE", "TZ", "TERM", "COLUMNS", "LINES", "NO_COLOR", "MPLBACKEND"),
    *("PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE", "PYTHONUTF8"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("LOCKSTEP_IMAGE", "LOCKSTEP_TRACEBACK"),
}


def variables_for_others() -> dict[str, str]:
    """Return the variables that code of others may see: no keys or tokens, no paths to them."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _FOR_OTHERS or name.startswith("LC_")
    }
