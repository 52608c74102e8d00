"""Checks before a commit that no tool of the lock makes."""

import sys
from pathlib import Path

LARGEST = 1 << 20  # bytes; what is larger belongs into the data store


def large_files(names: list[str]) -> int:
    """Refuse files over 1 MiB; 1 if there is one."""
    large = [name for name in names if Path(name).stat().st_size > LARGEST]
    for name in large:
        size = Path(name).stat().st_size / LARGEST
        print(f"{name}: {size:.1f} MiB, wanted at most 1; keep it as data, by its digest.")
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(large_files(sys.argv[2:]))
