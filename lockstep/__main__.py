"""``python -m lockstep``."""

from lockstep.cli import entry

entry()
