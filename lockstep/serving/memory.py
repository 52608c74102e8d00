"""Memory that is not needed any more goes back to the system (glibc; elsewhere nothing is done)."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGE = 4 << 20  # bytes; glibc raises it to 32 MiB by itself


def keep_large_apart() -> None:
    """Have large blocks, as of bodies and pictures, be mapped and unmapped alone."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
        # As glibc keeps the two; by its first value the model's memory would come and go each time.
        ctypes.CDLL(None).mallopt(_TRIM_THRESHOLD, 2 * _LARGE)


def give_back() -> None:
    """Return the free pages between blocks that are in use; takes milliseconds."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
