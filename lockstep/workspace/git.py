"""The commands of git that `invoke init` and `invoke upgrade` need, with trees as plain values."""

import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lockstep.ground.errors import WorkspaceError
from lockstep.ground.processes import follow_parent

Entry = tuple[str, str]  # mode and object of a file in a tree
# The user's hooks and caches must not take part in commits that are only prepared here.
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.splitIndex=false",
    "core.fsmonitor=false",
    "gc.auto=0",
)
# The author and time of commits that only serve a merge, so the same files are the same commit.
_NOBODY = {
    f"GIT_{role}_{name}": value
    for role in ("AUTHOR", "COMMITTER")
    for name, value in (("NAME", "Lockstep"), ("EMAIL", "lockstep@localhost"), ("DATE", "@1 +0000"))
}


@dataclass(frozen=True)
class Git:
    """A repository's commands.

    ``lock`` is a file descriptor that they inherit: the lock is held as long as one of them runs,
    even if the process that started them was killed.
    """

    folder: Path
    lock: int = -1

    def __call__(self, *words: str, content: bytes = b"", **variables: str) -> str:
        """Run a command and return its output. Raises WorkspaceError with git's last line."""
        done = self.attempt(*words, content=content, **variables)
        if done.returncode:
            lines = [line for line in done.stderr.decode().splitlines() if line.strip()]
            reason = lines[-1] if lines else f"exit code {done.returncode}"
            raise WorkspaceError(f"{self.folder}: git {' '.join(words[:2])}: {reason}")
        return os.fsdecode(done.stdout)

    def attempt(
        self, *words: str, content: bytes = b"", **variables: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command that may fail. Raises WorkspaceError where there is no git."""
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        not_ours = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set where a hook calls us
        kept = {name: value for name, value in os.environ.items() if name not in not_ours}
        try:
            return subprocess.run(
                ["git", *settings, *words],
                cwd=self.folder,
                env=kept | {"LC_ALL": "C"} | variables,
                input=content,
                capture_output=True,
                pass_fds=(self.lock,) if self.lock >= 0 else (),
                preexec_fn=follow_parent,
            )
        except FileNotFoundError as error:
            raise WorkspaceError(
                "git: not found; install it, then run the same command."
            ) from error

    def path(self, name: str) -> Path:
        """Return the path of one of git's own files, such as ``index``."""
        return self.folder / self("rev-parse", "--git-path", name).rstrip("\n")

    def tree(self, commit: str) -> dict[str, Entry]:
        """Return path to mode and object of each file of a commit."""
        entries = {}
        for line in self("ls-tree", "-r", "-z", "--full-tree", commit).split("\0"):
            if line:
                facts, _, path = line.partition("\t")
                mode, _, content = facts.split()
                entries[path] = (mode, content)
        return entries

    def read(self, commit: str, path: str) -> str:
        """Return a text file of a commit, empty if it is not there."""
        done = self.attempt("cat-file", "blob", f"{commit}:{path}")
        return done.stdout.decode() if done.returncode == 0 else ""

    def store(self, content: str) -> str:
        """Store a text and return its object."""
        return self("hash-object", "-w", "--stdin", content=content.encode()).strip()

    def commit(self, entries: Mapping[str, Entry], message: str, *parents: str) -> str:
        """Store a commit of these files alone, on no branch, and return it."""
        index = self.path("index-of-a-tree").absolute()
        index.unlink(missing_ok=True)
        self.enter(
            index, (f"{mode} {content}\t{path}" for path, (mode, content) in entries.items())
        )
        tree = self("write-tree", GIT_INDEX_FILE=str(index)).strip()
        index.unlink()
        words = [word for parent in parents for word in ("-p", parent)]
        return self("commit-tree", tree, *words, "-m", message, content=b"", **_NOBODY).strip()

    def enter(self, index: Path, lines: Iterable[str]) -> None:
        """Enter files into an index, as lines of ``update-index --index-info``."""
        content = "".join(f"{line}\0" for line in lines).encode(errors="surrogateescape")
        self("update-index", "-z", "--index-info", content=content, GIT_INDEX_FILE=str(index))
