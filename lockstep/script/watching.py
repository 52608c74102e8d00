"""What a program read, wrote and loaded, from the notes that were made while it ran."""

import functools
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from lockstep.ground import environment
from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.errors import WriteError
from lockstep.ground.files import write_atomically

NOTES, SOURCE = "notes", "source"  # in the folder that the watch writes
# They open files by native code, of which Python does not learn.
_NATIVE = {
    *("cv2", "duckdb", "h5py", "lightgbm", "netCDF4", "polars", "pyarrow", "tables", "tensorflow"),
    *("torchaudio", "torchvision", "xgboost", "zarr"),
}
_CACHES = ("~/.cache/matplotlib", "~/.config/matplotlib")  # of fonts: made when they are missing
_SYSTEM = (sys.base_prefix, "/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev")
_SKIPPED = {"__pycache__", ".ipynb_checkpoints"}  # folders without outputs
_LARGE = 1 << 20  # bytes; digests of files from this size on are remembered
_SETTLED = 2.0  # seconds; a file that was written later may change again within the same time stamp

Stamp = tuple[int, int]  # size and time of a file, as long as they stay its content does


@dataclass
class Notes:
    """The notes of a program, by what they say. Paths are absolute."""

    read: dict[str, Stamp] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    digests: dict[str, str] = field(default_factory=dict)  # of what was read, and changed later
    made: set[str] = field(default_factory=set)  # folders
    children: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Watched:
    """What a program depended on and what it wrote.

    ``source`` is path to content, ``inputs`` path to sha256; paths are relative to the repository,
    absolute outside of it. ``folders`` were there for the outputs before. ``reasons`` say what the
    watch cannot vouch for.
    """

    source: dict[str, bytes]
    inputs: dict[str, str]
    outputs: list[str]
    folders: list[str]
    packages: set[str]
    reasons: list[str]


def notes(folder: Path) -> Notes:
    """Read the notes in a folder, in their order: what the program wrote itself is no input."""
    result = Notes()
    path = folder / NOTES
    for line in path.read_bytes().split(b"\0\n")[:-1] if path.exists() else []:
        kind, *fields = (os.fsdecode(one) for one in line.split(b"\0"))
        if kind == "read" and fields[0] not in result.written:
            result.read.setdefault(fields[0], (int(fields[1]), int(fields[2])))
        elif kind == "write":
            result.written.add(fields[0])
        elif kind == "rename":
            result.written |= _moved(result.written, *fields)
        elif kind == "digest":
            result.digests.setdefault(*fields)
        elif kind == "folder":
            result.made.add(fields[0])
        elif kind == "child":
            result.children.add(fields[0])
        elif kind == "host":
            result.hosts.add(fields[0])
    return result


def _moved(written: Iterable[str], source: str, target: str) -> set[str]:
    """Where the written files of a renamed folder are now."""
    inside = f"{source}{os.sep}"
    return {target + path[len(source) :] for path in written if path.startswith(inside)}


def files_below(folder: Path, apart: Iterable[Path]) -> dict[str, Stamp]:
    """Path to size and time of each file below a folder, but not in hidden ones or ``apart``."""
    found: dict[str, Stamp] = {}
    skipped = {str(path) for path in apart}
    queue = [str(folder)]
    while queue:
        try:
            entries = list(os.scandir(queue.pop()))
        except OSError:
            continue
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    hidden = entry.name in _SKIPPED or entry.name[0] == "."
                    if not hidden and entry.path not in skipped:
                        queue.append(entry.path)
                elif entry.is_file():
                    status = entry.stat()
                    found[entry.path] = status.st_size, status.st_mtime_ns
    return found


class Surroundings:
    """Tells a program's own files from those of Python, packages and the system."""

    def __init__(self, base: Path, apart: Iterable[Path]):
        self.base = str(base)
        names = ("stdlib", "platstdlib", "purelib", "platlib")
        paths = [Path(path) for name in names if (path := sysconfig.get_path(name))]
        paths += [Path(path) for path in sys.path if any(Path(path).glob("*.dist-info"))]
        if sys.prefix != sys.base_prefix:
            paths.append(Path(sys.prefix))
        self._python = _both(paths)
        self._apart = _both([*apart, Path(__file__).parent / "startup"])
        caches = [*_CACHES, os.environ.get("MPLCONFIGDIR", _CACHES[0])]
        self._system = _both(Path(name).expanduser() for name in (*_SYSTEM, *caches))

    def package_file(self, path: str) -> str:
        """The path below a folder of packages; empty for any other file."""
        for folder in self._python:
            if path.startswith(folder) and folder.endswith(("-packages/", "dynload/")):
                return path[len(folder) :]
        return ""

    def is_own(self, path: str) -> bool:
        """Whether a file is neither of Python, nor of a package, nor of the system."""
        if path.startswith(self._python) or path.startswith(self._apart):
            return False
        return self.holds(path) or not path.startswith(self._system)

    def holds(self, path: str) -> bool:
        """Whether a file lies in the repository."""
        return path.startswith(f"{self.base}{os.sep}")

    def named(self, path: str) -> str:
        """The path relative to the repository, absolute outside of it."""
        return os.path.relpath(path, self.base) if self.holds(path) else path


def _both(paths: Iterable[Path]) -> tuple[str, ...]:
    """Beginnings of paths: as they are given and, where they are links, where they lead."""
    names = {f"{path}{os.sep}" for one in paths for path in (one.absolute(), one.resolve())}
    return tuple(sorted(names, key=len, reverse=True))


def watched(
    folder: Path,
    before: Mapping[str, Stamp],
    where: Surroundings,
    apart: Iterable[Path],
    data: Path,
) -> Watched:
    """Return what the notes in a folder say, with the files that appeared since ``before``.

    ``apart`` are folders in the repository that are not looked into. Digests of large files are
    kept below the folder ``data``.
    """
    seen = notes(folder)
    source = {
        path.relative_to(folder / SOURCE).as_posix(): path.read_bytes()
        for path in sorted((folder / SOURCE).rglob("*"))
        if path.is_file()
    }
    source = {name: code for name, code in source.items() if where.is_own(f"{where.base}/{name}")}
    unseen = _unseen(seen, before, files_below(Path(where.base), apart), where)
    loaded = {where.package_file(path) for path in seen.read} - {""}
    reasons = [f"{name}: a child process, which is not watched" for name in sorted(seen.children)]
    reasons += [f"{host}: the program connected to it" for host in sorted(seen.hosts)]
    if {"/dev/urandom", "/dev/random"} & seen.read.keys():
        reasons.append("/dev/urandom: was read, and differs each time")
    tops = {path.partition("/")[0].partition(".")[0] for path in loaded}
    reasons += [
        f"{name}: opens files by native code, which the watch does not see"
        for name in sorted(tops & _NATIVE)
    ]
    reasons += [
        f"{where.named(path)}: written by native code, a child process or another program"
        for path in sorted(unseen)
    ]
    outside = [path for path in sorted(seen.written) if _is_lasting(path, where)]
    reasons += [f"{path}: written outside of the repository, no output" for path in outside]
    inputs, problems = _inputs(seen, unseen, before, where, source, data)
    outputs = {path for path in seen.written | unseen if where.holds(path) and where.is_own(path)}
    kept = [where.named(path) for path in sorted(outputs) if _is_output(path)]
    above = {str(one) for name in kept for one in Path(where.base, name).parents}
    folders = sorted(where.named(path) for path in above - seen.made if where.holds(path))
    return Watched(source, inputs, kept, folders, distributions(tops), reasons + problems)


def _unseen(
    seen: Notes, before: Mapping[str, Stamp], after: Mapping[str, Stamp], where: Surroundings
) -> set[str]:
    """The files that changed while the program ran, though it noted no writing of them.

    A source file, or one that git has, is what somebody edited meanwhile.
    """
    changed = {path for path, stamp in after.items() if before.get(path) != stamp}
    changed = {path for path in changed - seen.written if not path.endswith((".py", ".ipynb"))}
    if not changed:
        return changed
    return changed - {f"{where.base}{os.sep}{name}" for name in tracked(Path(where.base))}


def _is_output(path: str) -> bool:
    return Path(path).is_file() and not _SKIPPED & {*Path(path).parts}


def _is_lasting(path: str, where: Surroundings) -> bool:
    """Whether a file outside of the repository is there to stay."""
    temporary = tuple({f"{one}{os.sep}" for one in (tempfile.gettempdir(), "/tmp", "/var/tmp")})
    outside = not where.holds(path) and where.is_own(path)
    return outside and not path.startswith(temporary) and Path(path).is_file()


def _inputs(
    seen: Notes,
    unseen: set[str],
    before: Mapping[str, Stamp],
    where: Surroundings,
    source: Mapping[str, bytes],
    data: Path,
) -> tuple[dict[str, str], list[str]]:
    """The digests of what was read and was not made by the program itself, and what is in doubt."""
    known, inputs, problems = Digests(data), {}, []
    for path, stamp in sorted(seen.read.items()):
        name = where.named(path)
        if name in source or not where.is_own(path):
            continue
        if path in unseen and before.get(path) != stamp:
            continue  # its own, written by native code before it was read
        if path in seen.digests:
            inputs[name] = seen.digests[path]
            continue
        try:
            now = Path(path).stat()
            if (now.st_size, now.st_mtime_ns) != stamp:
                problems.append(f"{name}: changed while the program ran")
            inputs[name] = known.of(path)
        except OSError:
            if path not in seen.written and not path.startswith(tempfile.gettempdir()):
                problems.append(f"{name}: was read, and is gone")
    known.save()
    return inputs, problems


class Digests:
    """Digests of files; those of large files are remembered, by size and time."""

    def __init__(self, data: Path):
        self._path = data / "digests.json"
        self._known: dict[str, list[object]] = {}
        with suppress(OSError, ValueError):
            self._known = json.loads(self._path.read_bytes())
        self._new = False

    def of(self, path: str) -> str:
        """Return the SHA-256 of a file. Raises OSError if it cannot be read."""
        status = Path(path).stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = self._known.get(os.path.realpath(path))
        if known and known[:-1] == stamp:
            return str(known[-1])
        digest = digest_of(Path(path))
        if status.st_size >= _LARGE and status.st_mtime < time.time() - _SETTLED:
            self._known[os.path.realpath(path)] = [*stamp, digest]
            self._new = True
        return digest

    def save(self) -> None:
        """Remember what was read; where that cannot be, it is read again."""
        if self._new:
            with suppress(OSError, WriteError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, canonical_json(self._known))


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def distributions(tops: Iterable[str]) -> set[str]:
    """The distributions that modules of these names belong to."""
    return {environment.normal(name) for top in tops for name in _owners().get(top, ())}


def tracked(base: Path) -> set[str]:
    """The files that git has in a repository, by their names in it."""
    return {name for name in _git(base, "ls-files", "-z").split("\0") if name}


def ignored(base: Path, names: Iterable[str]) -> set[str]:
    """Those of the names in a repository that git ignores."""
    text = _git(base, "check-ignore", "-z", "--stdin", given="\0".join(names))
    return {name for name in text.split("\0") if name}


def _git(base: Path, *words: str, given: str = "") -> str:
    """What git says; nothing where there is no git, or no repository of its."""
    with suppress(OSError):
        command = ["git", "-C", str(base), *words]
        return subprocess.run(command, input=given, capture_output=True, text=True).stdout
    return ""
