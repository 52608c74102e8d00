"""``python -m project``."""

from project.cli import entry

entry()
