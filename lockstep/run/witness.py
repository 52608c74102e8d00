"""Watches what a run reads and loads while it is set up: all of it must be part of its identity."""

import functools
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lockstep.ground import home
from lockstep.ground.errors import ModelError


class Witness:
    """Notes which files are read, and which modules loaded, while a run is set up and rehearsed."""

    def __init__(self, known: set[Path], allowed: list[Path], packages: set[str]):
        self.packages = packages | {"lockstep", *sys.stdlib_module_names}
        self.known = known | {home.ROOT / "pyproject.toml"}  # which says where the project is
        self.allowed = [*allowed, *_places_of_python()]
        self.opened: list[Path] = []
        self.imported: list[tuple[str, str]] = []  # a package, and the project's file that asked
        self._before = set(sys.modules)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note while this lasts."""
        _listen()
        _NOTING.append(self)
        try:
            yield
        finally:
            _NOTING.remove(self)

    def refuse_unknown(self) -> None:
        """Raise ModelError for a module or a file that is part of no identity."""
        for name in sorted(set(sys.modules) - self._before):
            file = getattr(sys.modules[name], "__file__", None)
            if file and self._is_unknown(Path(file)):
                raise ModelError(
                    f"{file}: the module {name} was loaded for training, but no import statement "
                    "of the model leads to it, so it is part of no identity; import it by a "
                    "statement, from the project's package."
                )
        ours = home.here().package.partition(".")[0]
        for package, asker in self.imported:
            if package not in self.packages | {ours}:
                raise ModelError(
                    f"{asker}: loads {package} by a call, so its version is part of no identity; "
                    f"write the statement `import {package}` into the module."
                )
        for path in self.opened:
            if self._is_unknown(path):
                raise ModelError(
                    f"{path}: was read while the model was set up, and is part of no identity; put "
                    "the file into the model's folder."
                )

    def _is_unknown(self, path: Path) -> bool:
        try:
            real = path.absolute().resolve()
        except OSError:
            return False
        inside = any(folder in real.parents for folder in self.allowed)
        return real.is_file() and not inside and real not in self.known and real.suffix != ".pyc"


_NOTING: list[Witness] = []


@functools.cache
def _listen() -> None:
    """Hear of each file that is opened and each import; once, as such a hook can't be removed."""

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if not _NOTING or event not in ("open", "import"):
            return
        if event == "import":
            if asker := _asking_file():
                _NOTING[-1].imported.append((arguments[0].partition(".")[0], asker))
            return
        path, mode, flags = arguments
        reads = "r" in mode if isinstance(mode, str) else not (flags or 0) & 3
        if reads and isinstance(path, str | bytes):
            _NOTING[-1].opened.append(Path(path.decode() if isinstance(path, bytes) else path))

    sys.addaudithook(note)


def _asking_file() -> str:
    """The project's file whose code imports now, "" if it is other code that does."""
    frame = sys._getframe(2)
    while frame.f_back and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    asks = str(frame.f_globals.get("__name__", "")).startswith(f"{home.here().package}.")
    return frame.f_code.co_filename if asks else ""


def _places_of_python() -> list[Path]:
    """Where files lie that come with the system, with Python, with packages or with the engine."""
    named = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    # The user's packages, or those that a .pth file adds, as a notebook service does.
    added = {folder for folder in sys.path if any(Path(folder).glob("*.dist-info"))}
    found = [sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev", "/etc"]
    found += [*filter(None, named), *added, _fonts()]
    return [Path(one).resolve() for one in found] + [Path("/usr"), home.ENGINE]


def _fonts() -> str:
    """Where matplotlib, which other libraries load, keeps what fonts there are."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return os.environ.get("MPLCONFIGDIR") or str(Path(caches) / "matplotlib")
