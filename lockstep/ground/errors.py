"""Errors that a user can fix: one line each, and exit code 2.

LockstepError
├── SettingError      a recipe or an override holds something that is no setting or no value for it
├── DataError         a data set is missing, altered, truncated or differs from the catalog
├── StorageError      a shared folder or bucket cannot be reached, or holds something else
├── ModelError        a model folder or a stored model is missing or incomplete
│   └── BundleError       a bundle was altered, is not signed as expected, or cannot be built
├── RunError          the runs folder or one run in it cannot be used
│   └── CheckpointError   a checkpoint cannot be read back, or would hold what is not finite
├── WriteError        a file or folder cannot be written
├── ContainerError    a container image cannot be built or run here
├── ServingError      a run cannot be served where it was asked for
├── DeploymentError   an account refuses a deployment, or what was asked for is impossible
├── TrackingError     MLflow cannot be reached, or refuses what is sent
├── WorkspaceError    a team's tree cannot be created, or not upgraded
├── EnvironmentMismatch   the process, machine or packages cannot keep what the profile promises
└── Diverged          training produced numbers that are not finite

A message names the thing, what was found, what was expected and the next move; never a password.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

# Control characters but tab and line end, separators of lines, overrides of direction, surrogates.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def public(text: str) -> str:
    """A text with addresses, without the passwords in them."""
    return re.sub(r"://[^/\s]*@", "://", text)


def printable(text: str) -> str:
    """Return a text in one line, with escapes for what cannot be printed, as in odd file names."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def harmless(text: str) -> str:
    """Return a text with escapes for what would command a terminal or turn its letters around.

    Lines and tabs stay. Names, receipts and messages from files of others may hold anything.
    """
    return _COMMANDS.sub(lambda one: one[0].encode("unicode_escape").decode(), text)


def nearest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean X?"`` for a mistyped name, or nothing if none is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


class LockstepError(Exception):
    """An error that the user can fix; the message is one line, or one line for each problem."""

    def __str__(self) -> str:
        return harmless(public(super().__str__()))

    def _render_traceback_(self) -> list[str]:  # what IPython shows of it in a notebook
        return [f"error: {self}"]


class SettingError(LockstepError):
    """Raised once with all problems of a configuration, one line each."""


class DataError(LockstepError):
    """A data set is missing, altered, truncated or differs from the catalog."""


class StorageError(LockstepError):
    """A shared folder or bucket cannot be reached, or holds something else."""


class ModelError(LockstepError):
    """A model folder or a stored model is missing or incomplete."""


class BundleError(ModelError):
    """A bundle was altered, is not signed as expected, or cannot be built."""


class RunError(LockstepError):
    """The runs folder or one run in it cannot be used."""


class NotOwner(RunError):
    """Another process writes the run's folder, which is now that one's."""


class CheckpointError(RunError):
    """A checkpoint cannot be read back, or would hold what is not finite."""


class WriteError(LockstepError):
    """A file or folder cannot be written: a full disk, a missing permission, a read-only mount.

    A caller that knows the option for another ``path`` adds it to the ``remedy``.
    """

    def __init__(self, path: Path, reason: str, remedy: str):
        super().__init__(path, reason, remedy)
        self.path, self.reason, self.remedy = path, reason, remedy

    def __str__(self) -> str:
        return harmless(
            f"{self.path}: {self.reason}; {self.remedy}, then run the same command again."
        )


class ContainerError(LockstepError):
    """A container image cannot be built or run here."""


class ServingError(LockstepError):
    """A run cannot be served where it was asked for."""


class DeploymentError(LockstepError):
    """An account refuses a deployment, or what was asked for is impossible."""


class TrackingError(LockstepError):
    """MLflow cannot be reached, or refuses what is sent."""


class WorkspaceError(LockstepError):
    """A team's tree cannot be created, or not upgraded."""


class EnvironmentMismatch(LockstepError):
    """The process, machine or packages cannot keep what the profile promises."""


class Diverged(LockstepError):
    """Training produced numbers that are not finite."""


class Interrupted(Exception):
    """Training was asked to stop by a signal and has saved its state; not an error.

    The process should end with ``128 + signal`` as a shell expects. Serving, too, ends like this,
    but has no state to save: it ``resumes`` nothing.
    """

    def __init__(self, signal: int, message: str, *, resumes: bool = True):
        super().__init__(message)
        self.signal, self.resumes = signal, resumes

    def message(self, again: str = "command") -> str:
        """Return the line for people; repeating the same ``again`` resumes."""
        return f"{self}; run the same {again} to resume" if self.resumes else str(self)

    def _render_traceback_(self) -> list[str]:
        return [self.message("cell")]


class WorkerLost(Exception):
    """Another worker of the run is gone; not an error of this one.

    The process should end, and be started again with the workers that are left.
    """
