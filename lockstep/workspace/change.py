"""Changes a working tree as a whole: a kill leaves the old one, or one that the next call finishes.

The new files and the new index are prepared in a hidden folder. Then a plan is written; from there
on the change is always finished, by this process or by the next one. The engine's folder is
exchanged by one system call, so a whole engine is there at any time to finish with; each other file
is replaced by a rename.
"""

import ctypes
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lockstep.ground.digests import readable_json
from lockstep.ground.errors import WorkspaceError
from lockstep.ground.files import write_atomically
from lockstep.workspace.git import Git

ASIDE = ".lockstep-change"  # the hidden folder; it ignores itself
TREE = f"{ASIDE}/tree"  # the new files, in their places
_PLAN = f"{ASIDE}/plan.json"
_ENGINE = "lockstep"
_INDEX = "index.lockstep-change"  # beside the index, to take its place by a rename


@dataclass(frozen=True)
class Change:
    """The files to write and to remove in the tree of a commit, and the report on them.

    ``engine`` is the inode of the folder that replaces ``lockstep/``, or 0.
    """

    head: str
    write: list[str]
    remove: list[str]
    engine: int = 0
    report: dict[str, Any] = field(default_factory=dict)

    def prepare(self, git: Git, index: Sequence[str]) -> None:
        """Write the plan; ``index`` has the lines that change, for ``update-index``.

        Raises WorkspaceError if a new file would overwrite one that git does not track.
        """
        tracked = git.tree(self.head)
        for path in self.write:
            if path not in tracked and os.path.lexists(git.folder / path):
                raise WorkspaceError(
                    f"{path}: not tracked by git, and a new file would overwrite it; commit or "
                    "move it, then run the same command."
                )
        prepared = git.path(_INDEX)
        shutil.copy(git.path("index"), prepared)
        git.enter(prepared.absolute(), index)
        os.sync()
        write_atomically(git.folder / _PLAN, readable_json(asdict(self)))

    def publish(self, git: Git) -> None:
        """Move everything into place. May be called again after an interruption."""
        with _unstoppable():
            self._exchange_engine(git)
            for path in self.remove:
                if self._is_due(git, path):
                    (git.folder / path).unlink(missing_ok=True)
                    _remove_empty(git.folder, path)
            for path in self.write:
                if self._is_due(git, path):
                    (git.folder / path).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(git.folder / TREE / path, git.folder / path)
            if (prepared := git.path(_INDEX)).exists():
                os.replace(prepared, git.path("index"))
            os.sync()
            discard(git)
            git.attempt("update-index", "-q", "--refresh")

    def _is_due(self, git: Git, path: str) -> bool:
        """Whether a file still has to be written or removed; the engine's go with their folder."""
        if self.engine and path.startswith(f"{_ENGINE}/"):
            return False
        place = git.folder / (TREE if path in self.write else "") / path
        return os.path.lexists(place)

    def _exchange_engine(self, git: Git) -> None:
        new, place = git.folder / TREE / _ENGINE, git.folder / _ENGINE
        if not self.engine:
            return
        if place.stat().st_ino != self.engine:
            exchange(new, place)
        tracked = git.tree(self.head)  # what else was in the old folder is the user's: it stays
        for path in [path for path in new.rglob("*") if path.is_file() or path.is_symlink()]:
            name = path.relative_to(git.folder / TREE)
            if name.as_posix() not in tracked and "__pycache__" not in name.parts:
                (git.folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, git.folder / name)

    def refuse_edits(self, git: Git) -> None:
        """Raise WorkspaceError if a file was edited that still has to be replaced."""
        if not git.path(_INDEX).exists():
            return  # everything is in place
        exchanged = self.engine and (git.folder / _ENGINE).stat().st_ino == self.engine
        for path in git("diff", "--name-only", "-z", "HEAD").split("\0"):
            engines = self.engine and path.startswith(f"{_ENGINE}/")
            listed = path in self.write or path in self.remove
            done = exchanged if engines else listed and not self._is_due(git, path)
            if path and not done:
                raise WorkspaceError(
                    f"{path}: edited after the command was interrupted; `git stash push {path}` "
                    "keeps the edit, then run the same command."
                )


def pending(git: Git) -> Change | None:
    """Return the change whose publication was interrupted, if there is one.

    A change that was prepared for another commit than the current one is discarded.
    """
    try:
        change = Change(**json.loads((git.folder / _PLAN).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    if change.head == git("rev-parse", "HEAD").strip():
        return change
    discard(git)
    return None


def finish(git: Git, say: Callable[[str], None]) -> Change | None:
    """Finish the change that was interrupted, if there is one, and return it."""
    if interrupted := pending(git):
        interrupted.refuse_edits(git)
        say("finishing the interrupted change")
        interrupted.publish(git)
    return interrupted


def begin(git: Git) -> None:
    """Create the hidden folder, empty."""
    discard(git)
    (git.folder / TREE).mkdir(parents=True)
    (git.folder / ASIDE / ".gitignore").write_text("*\n")


def discard(git: Git) -> None:
    """Remove the hidden folder; the plan after the files that it names."""
    git.path(_INDEX).unlink(missing_ok=True)
    shutil.rmtree(git.folder / TREE, ignore_errors=True)
    (git.folder / _PLAN).unlink(missing_ok=True)
    shutil.rmtree(git.folder / ASIDE, ignore_errors=True)


def exchange(a: Path, b: Path) -> None:
    """Exchange two folders by one system call, or by three renames where the system has none."""
    at_current_folder, rename_exchange = -100, 2  # of fcntl.h and linux/fs.h
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = at_current_folder, os.fsencode(a), at_current_folder, os.fsencode(b)
    if call and call(*paths, rename_exchange) == 0:
        return
    old = a.with_name(f"{a.name}.old")
    os.rename(b, old)
    os.rename(a, b)
    os.rename(old, a)


def _remove_empty(root: Path, path: str) -> None:
    for parent in (root / path).parents:
        shutil.rmtree(parent / "__pycache__", ignore_errors=True)
        if parent == root or not parent.is_dir() or any(parent.iterdir()):
            return
        parent.rmdir()


@contextmanager
def _unstoppable() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def index_lines(path: str, stages: Mapping[int, tuple[str, str]]) -> Iterator[str]:
    """Lines that enter a file into an index: no stage removes it, 1 to 3 mark a conflict."""
    yield f"0 {'0' * 40}\t{path}"
    for stage, (mode, content) in sorted(stages.items()):
        yield f"{mode} {content} {stage}\t{path}"
