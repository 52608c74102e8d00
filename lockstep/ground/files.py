"""Files whose names are promises: written aside, flushed, renamed; read back by digest."""

import errno
import fcntl
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lockstep.ground.errors import RunError, WriteError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that exists completely or not at all, even after a power failure.

    Raises WriteError if the disk is full or the folder cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.part")
    with write_errors(path):
        try:
            write_flushed(part, content)
            os.replace(part, path)
            flush_folder(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it; the name is not yet a promise."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the disk has a folder's entries: a rename is not safe before."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder beside ``final``, then give it that name by one rename.

    A folder that a killed process left half-written is removed first. Raises WriteError as
    write_atomically does, and then leaves nothing behind.
    """
    part = final.with_name(f".{final.name}.part")
    with write_errors(final):
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            write(part)
            flush_folder(part)
            os.rename(part, final)
            flush_folder(final.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write ``path`` into a WriteError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing_parent(path)).free
            reason, remedy = f"no space left on the disk ({free / 1e6:.1f} MB free)", "free some"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            reason, remedy = "the folder cannot be written", "make it writable"
        else:
            reason, remedy = error.strerror or str(error), "correct that"
        raise WriteError(path, reason, remedy) from error


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in path.absolute().parents if folder.exists())


@contextmanager
def held(folder: Path, waiting: Callable[[str], None]) -> Iterator[int]:
    """Lock a folder for this process; if another holds it, say which (once) and wait for it.

    The lock is the kernel's, on the folder itself: it leaves no file and dies with its holder.
    Given is its file descriptor: a child that inherits it holds the folder too.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting(f"{folder} is held by {_holder(handle)}; waiting for it to end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            waiting(
                f"warning: {folder}: its file system has no locks ({error.strerror}); do not use "
                "it from two processes at once."
            )
        yield handle
    finally:
        os.close(handle)


_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


_OWNER = ".owner"


class Owner:
    """The process that writes a folder, by a file in it that names the last one to come.

    For where locks do not hold, as on some network file systems: the lock of a folder is often one
    of this machine alone. There the one that came first finds out at its next ``check``.
    """

    def __init__(self, folder: Path):
        self._path = folder / _OWNER
        mine = {"host": socket.gethostname(), "process": os.getpid(), "key": uuid.uuid4().hex}
        self._mine = json.dumps(mine)
        part = folder / f".owner-{mine['key']}"
        with write_errors(self._path):
            try:
                part.write_text(self._mine)
                os.replace(part, self._path)
            finally:
                part.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise RunError if another process has come since."""
        try:
            now = self._path.read_text()
        except OSError:
            now = "{}"  # the other has come and gone
        if now == self._mine:
            return
        try:
            other = json.loads(now)
            who = f"process {other['process']} on {other['host']}"
        except (ValueError, KeyError):
            who = "another process"
        raise RunError(
            f"{self._path.parent}: {who} has begun to write this run too, so the file system's "
            "locks do not hold; this process ends and leaves the run to the other. Train a run "
            "from one place at a time, or use a runs folder with locks."
        )

    def leave(self) -> None:
        """Remove the file, unless it is another's."""
        with suppress(OSError):  # of no harm where it cannot be removed
            if self._path.read_text() == self._mine:
                self._path.unlink()


def abandon(folder: Path) -> None:
    """Remove the name of an owner who was killed, where that is allowed."""
    with suppress(OSError):
        (folder / _OWNER).unlink(missing_ok=True)


@contextmanager
def owned(folder: Path) -> Iterator[Owner]:
    """Name this process as the owner of a folder that it holds."""
    owner = Owner(folder)
    try:
        yield owner
    finally:
        owner.leave()


def is_held(folder: Path) -> bool:
    """Whether a living process holds the folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False  # nobody can tell
    finally:
        os.close(handle)


def remove_abandoned(folder: Path) -> bool:
    """Remove a folder of this user's that no living process holds; whether it was one."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if os.fstat(handle).st_uid != os.getuid():
            return False
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    """Name the process that holds the lock on an open file, where the kernel shows it."""
    inode = f":{os.fstat(handle).st_ino} "
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return "another process"
    pids = [line.split()[4] for line in lines if inode in line and "->" not in line]
    return f"process {pids[0]}" if pids else "another process"
