"""Seeds a program and notes what it reads, writes, loads, starts and calls.

Python imports a module of this name before a program's first line, in the program's own process and
in each Python that it starts (https://docs.python.org/3/library/site.html). Nothing of it changes
what the program computes. It imports as little as possible, so that the program starts as usual.

Each note is one write to the file ``notes`` in the folder LOCKSTEP_WATCH: fields that end with a
zero byte, and a line end. The source files that the program loads are copied below ``source`` when
they are loaded, as people edit while a program runs.
"""

# pathlib is one of the modules that a program may do without.
# ruff: noqa: PTH100, PTH103, PTH110, PTH112, PTH113, PTH116, PTH118, PTH119, PTH120, PTH123

from __future__ import annotations

import functools
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to load than all of this
    from typing import Any

_WATCH, _BASE = os.environ["LOCKSTEP_WATCH"], os.environ["LOCKSTEP_BASE"]
_OWN = (f"{_WATCH}{os.sep}", __file__)  # of which no note is made
_SEED = int(os.environ["LOCKSTEP_SEED"])
# A reproduction writes nowhere else than here; empty elsewhere.
_CONFINED = tuple(
    f"{folder}{os.sep}"
    for folder in os.environ.get("LOCKSTEP_CONFINED", "").split(os.pathsep)
    if folder
)
_NOTES = os.open(
    os.path.join(_WATCH, "notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
)
_SMALL = 1 << 20  # bytes
_read: set[str] = set()
_written: set[str] = set()


def _note(*fields: str | bytes) -> None:
    os.write(_NOTES, b"".join(os.fsencode(field) + b"\0" for field in fields) + b"\n")


def _opened(path: Any, _: object, flags: int | None) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return  # an open file's number
    flags = flags or 0
    if not flags & (os.O_WRONLY | os.O_RDWR):
        _reads(path)
        return
    if not flags & os.O_TRUNC and (flags & os.O_RDWR or flags & os.O_APPEND):
        _reads(path)  # what stands there already goes into the result
    _writes(path)


def _reads(path: Any, *_: object) -> None:
    path = _source_of(_absolute(path))
    if path in _read or path in _written or path.startswith(_OWN):
        return
    _read.add(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return
    _note("read", path, str(status.st_size), str(status.st_mtime_ns))
    if path.endswith(".py") and path.startswith(f"{_BASE}{os.sep}"):
        _keep(path)


def _writes(path: Any, *_: object) -> None:
    path = _absolute(path)
    if path in _written or path.startswith(_OWN):
        return
    if _CONFINED and not os.path.realpath(path).startswith(_CONFINED):
        raise PermissionError(13, "a reproduction writes below its own folder only", path)
    _remember(path)
    _written.add(path)
    _note("write", path)


def _remember(path: str) -> None:
    """Note the content of a file that was read, before it changes; of a small one keep it."""
    if path not in _read or path in _written or not os.path.isfile(path):
        return
    import hashlib

    with open(path, "rb") as file:
        _note("digest", path, hashlib.file_digest(file, "sha256").hexdigest())
        small = file.tell() < _SMALL
    if small and path.startswith(f"{_BASE}{os.sep}"):
        _keep(path)


def _renamed(source: Any, target: Any, *folders: int) -> None:
    if folders and max(folders) >= 0:
        return  # relative to an open folder
    source = _absolute(source)
    if source.startswith(_OWN):
        return
    _remember(source)
    _writes(target)
    _note("rename", source, _absolute(target))


def _removed(path: Any, folder: int = -1) -> None:
    if folder < 0:
        _remember(_absolute(path))


def _made(path: Any, *_: object) -> None:
    path = _absolute(path)
    if not path.startswith(_OWN) and not os.path.isdir(path):
        _note("folder", path)


def _linked(_: object, target: Any, *__: object) -> None:
    _writes(target)


def _connected_to_database(path: Any) -> None:
    if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path) != ":memory:":
        _reads(path)
        _writes(path)


def _loaded(_: object, file: Any = None, *__: object) -> None:
    if file and isinstance(file, str):  # a compiled module
        _reads(file)


def _library(name: Any) -> None:
    if isinstance(name, str) and os.sep in name:
        _reads(name)


def _started(program: Any, words: Any = (), *more: Any) -> None:
    """Note a child process, unless it is a Python that notes by itself."""
    variables = more[-1] if more else None
    name = os.path.basename(os.fsdecode(program)).split(" ")[0]
    watched = not isinstance(variables, dict) or "LOCKSTEP_WATCH" in variables
    alone = {"-I", "-E", "-S"} & {word for word in words[1:4] if isinstance(word, str)}
    if not (name.startswith("python") and watched and not alone):
        _note("child", name)


def _connected(_: object, address: Any) -> None:
    if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1")):
        _note("host", str(address[0]))


def _looked_up(host: Any, *_: object) -> None:
    if host and host != "localhost":
        _note("host", host if isinstance(host, str | bytes) else str(host))


def _absolute(path: Any) -> str:
    try:
        return os.path.abspath(os.fsdecode(path))
    except OSError:  # the current folder is gone
        return os.fsdecode(path)


def _source_of(path: str) -> str:
    """The source file of compiled bytecode, any other file itself."""
    if not path.endswith(".pyc"):
        return path
    folder, name = os.path.split(path)
    if sys.pycache_prefix and folder.startswith(sys.pycache_prefix):
        folder = folder[len(sys.pycache_prefix) :]
    else:
        folder = folder.removesuffix(f"{os.sep}__pycache__")
    return os.path.join(folder, f"{name.partition('.')[0]}.py")


def _keep(path: str) -> None:
    copy = os.path.join(_WATCH, "source", os.path.relpath(path, _BASE))
    if not os.path.exists(copy):
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        with open(path, "rb") as file:
            content = file.read()
        with open(f"{copy}.{os.getpid()}", "wb") as file:
            file.write(content)
        os.replace(f"{copy}.{os.getpid()}", copy)


_HEARD: dict[str, Any] = {
    "open": _opened,
    "cpython.run_file": _reads,
    "import": _loaded,
    "ctypes.dlopen": _library,
    "os.rename": _renamed,
    "os.remove": _removed,
    "os.mkdir": _made,
    "os.link": _linked,
    "os.symlink": _linked,
    "os.truncate": _writes,
    "sqlite3.connect": _connected_to_database,
    "subprocess.Popen": _started,
    "os.posix_spawn": _started,
    "os.exec": _started,
    "os.system": _started,
    "socket.connect": _connected,
    "socket.getaddrinfo": _looked_up,
}


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if heard := _HEARD.get(event):
        heard(*arguments)


def _noting(module: Any, function: str, position: int, note: Any) -> None:
    """Have a function note the path in one of its arguments, as it opens the file natively."""
    plain = getattr(module, function)

    @functools.wraps(plain)
    def noted(*arguments: Any, **named: Any) -> Any:
        paths = (*arguments[position : position + 1], *named.values())
        if path := next((one for one in paths if isinstance(one, str | os.PathLike)), None):
            note(path)
        return plain(*arguments, **named)

    setattr(module, function, noted)


def _after_random(module: Any) -> None:
    module.seed(_SEED)


def _after_numpy(module: Any) -> None:
    module.seed(_SEED & 0xFFFFFFFF)


def _after_torch(module: Any) -> None:
    module.manual_seed(_SEED)
    _noting(module, "save", 1, _writes)


def _after_safetensors(module: Any) -> None:
    _noting(module, "safe_open", 0, _reads)
    _noting(module, "serialize_file", 1, _writes)


class _Loading:
    """Finds modules as usual, and does something to a few of them when they are loaded."""

    after: dict[str, Any] = {  # noqa: RUF012
        "random": _after_random,
        "numpy.random": _after_numpy,
        "torch": _after_torch,
        "safetensors": _after_safetensors,
    }

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        after = cls.after.pop(name, None)
        if after is None:
            return None
        others = (finder for finder in sys.meta_path if finder is not cls)
        spec = next(filter(None, (one.find_spec(name, path, target) for one in others)), None)
        if spec and spec.loader:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                after(module)

            loader.exec_module = exec_module
        return spec


def _begin() -> None:
    for name in [name for name in _Loading.after if name in sys.modules]:
        _Loading.after.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, _Loading)
    sys.path = [one for one in sys.path if one != os.path.dirname(__file__)]
    sys.addaudithook(_hear)
    # An environment may have a module of this name itself, which we stand before.
    ours = sys.modules.pop(__name__)
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        sys.modules[__name__] = ours


if __name__ == "sitecustomize":
    _begin()
