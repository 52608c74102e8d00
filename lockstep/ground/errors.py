"""What can go wrong by a user's doing, each told in one line and answered with exit code 2.

LockstepError
├── SettingError      a recipe or an override holds something that is no setting or no value for it
├── DataError         a data set is missing, altered, truncated or not what the catalog says
├── StorageError      a shared folder or bucket cannot be reached, or holds something else
├── ModelError        a model folder or a stored model is missing or incomplete
│   └── BundleError       a bundle was altered, is not signed as wanted, or cannot be made
├── RunError          the runs folder or one run in it cannot be used
│   └── CheckpointError   a checkpoint cannot be read back, or would hold what is not finite
├── WriteError        a file or folder cannot be written
├── ContainerError    a container image cannot be built or run here
├── ServingError      a run cannot be served where it was asked for
├── DeploymentError   an account refuses a deployment, or it was asked for what cannot be
├── TrackingError     MLflow cannot be reached, or refuses what is sent
├── WorkspaceError    a team's tree cannot be made, or not brought to another engine
├── EnvironmentMismatch   the process, machine or packages cannot keep what the profile promises
└── Diverged          training produced numbers that are not finite

A message names the thing, what was found, what was wanted and the next move; never a password.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def public(text: str) -> str:
    """A text with addresses, without the passwords in them."""
    return re.sub(r"://[^/\s]*@", "://", text)


def printable(text: str) -> str:
    """Return a text in one line, with escapes for what cannot be printed, as in odd file names."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean X?"`` for a mistyped name, or nothing if none is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


class LockstepError(Exception):
    """A mistake that the user can mend; the message is one line, or one line for each problem."""

    def __str__(self) -> str:
        return public(super().__str__())

    def _render_traceback_(self) -> list[str]:  # what IPython shows of it in a notebook
        return [f"error: {self}"]


class SettingError(LockstepError):
    """Raised once with all problems of a configuration, one line each."""


class DataError(LockstepError):
    """A data set is missing, altered, truncated or not what the catalog says."""


class StorageError(LockstepError):
    """A shared folder or bucket cannot be reached, or holds something else."""


class ModelError(LockstepError):
    """A model folder or a stored model is missing or incomplete."""


class BundleError(ModelError):
    """A bundle was altered, is not signed as wanted, or cannot be made."""


class RunError(LockstepError):
    """The runs folder or one run in it cannot be used."""


class CheckpointError(RunError):
    """A checkpoint cannot be read back, or would hold what is not finite."""


class WriteError(LockstepError):
    """A file or folder cannot be written: a full disk, a missing permission, a read-only mount.

    Whoever knows how the user names another ``path`` adds that to the ``remedy``.
    """

    def __init__(self, path: Path, reason: str, remedy: str):
        super().__init__(path, reason, remedy)
        self.path, self.reason, self.remedy = path, reason, remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; {self.remedy}, then run the same command again."


class ContainerError(LockstepError):
    """A container image cannot be built or run here."""


class ServingError(LockstepError):
    """A run cannot be served where it was asked for."""


class DeploymentError(LockstepError):
    """An account refuses a deployment, or it was asked for what cannot be."""


class TrackingError(LockstepError):
    """MLflow cannot be reached, or refuses what is sent."""


class WorkspaceError(LockstepError):
    """A team's tree cannot be made, or not brought to another engine."""


class EnvironmentMismatch(LockstepError):
    """The process, machine or packages cannot keep what the profile promises."""


class Diverged(LockstepError):
    """Training produced numbers that are not finite."""


class Interrupted(Exception):
    """Training was asked to stop by a signal and has saved its state; not an error.

    The process should end with ``128 + signal`` as a shell expects. Serving, too, ends like this,
    but has nothing to go on with: it ``resumes`` nothing.
    """

    def __init__(self, signal: int, message: str, *, resumes: bool = True):
        super().__init__(message)
        self.signal, self.resumes = signal, resumes

    def told(self, again: str = "command") -> str:
        """The line for people, who go on by doing the same ``again``."""
        return f"{self}; run the same {again} to go on" if self.resumes else str(self)

    def _render_traceback_(self) -> list[str]:
        return [self.told("cell")]


class WorkerLost(Exception):
    """Another worker of the run is gone; not an error of this one.

    The process should end, to be started again with those that are left.
    """
