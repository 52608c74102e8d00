"""The command of a script: what can be run, how it is written down, in which surroundings."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lockstep.ground import profiles
from lockstep.ground.errors import RunError, SettingError, nearest
from lockstep.ground.processes import variables_for_others
from lockstep.records.script import Command

_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_ALONE = {"-I", "-E", "-S"}  # Python would not import what watches it
_VALUED = ("-W", "-X")
_STARTUP = Path(__file__).with_name("startup")


@dataclass(frozen=True)
class Program:
    """A Python program to run: its words after ``python``, and where they count from.

    ``name`` names its runs, ``base`` is the repository, ``folder`` the current folder in it,
    ``paths`` are those of PYTHONPATH.
    """

    words: list[str]
    name: str
    base: Path
    folder: Path
    seed: int
    threads: int
    paths: list[Path]

    def recorded(self) -> Command:
        """Return the command as it is recorded: paths in the repository are relative."""
        here = f"{os.path.relpath(self.base, self.folder)}{os.sep}".removeprefix(f".{os.sep}")
        words = [word.replace(f"{self.base}{os.sep}", here) for word in self.words]
        folder = self.folder.relative_to(self.base).as_posix()
        return {"words": words, "folder": folder, "seed": self.seed, "threads": self.threads}

    def recorded_paths(self) -> list[str]:
        """Return the paths of PYTHONPATH; those in the repository are relative."""
        return [
            str(path.relative_to(self.base) if path.is_relative_to(self.base) else path)
            for path in self.paths
        ]

    def variables(self, watch: Path, confined: Sequence[Path] = ()) -> dict[str, str]:
        """Return the variables of the process, whose notes go to the folder ``watch``.

        It can write below the folders ``confined`` only, if there are any, and then sees few of
        our variables.
        """
        result = variables_for_others() if confined else dict(os.environ)
        for name, (_, expected) in profiles.differing("native").items():
            result.pop(name, None)
            if expected is not None:
                result[name] = expected
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        result |= dict.fromkeys(threads, str(self.threads))
        return result | {
            "PYTHONPATH": os.pathsep.join(map(str, (_STARTUP, *self.paths))),
            "PYTHONHASHSEED": str(self.seed & 0xFFFFFFFF),
            "PYTHONUNBUFFERED": "1",  # what it prints is shown at once, though through a pipe
            "LOCKSTEP_SEED": str(self.seed),
            "LOCKSTEP_BASE": str(self.base),
            "LOCKSTEP_WATCH": str(watch.absolute()),
            "LOCKSTEP_CONFINED": os.pathsep.join(map(str, confined)),
        }


def program(words: Sequence[str], folder: Path, *, seed: int, threads: int, name: str) -> Program:
    """Return the program that a command line names.

    It is ``python FILE ...``, ``python -m MODULE ...`` or ``FILE.py ...``. Raises RunError for any
    other: only Python can be seeded and watched from within.
    """
    base, folder = repository(folder), folder.resolve()
    words = _python_words(list(words), folder)
    place = place_of_program(words)
    what = words[place + 1] if words[place] == "-m" else Path(words[place]).stem
    if not re.fullmatch(r"[\w.-]+", name or what):
        raise SettingError(
            f"--name: found {name or what!r}, expected letters, digits, dots, - and _; name the "
            "run by --name NAME."
        )
    if words[place] != "-m":
        _refuse_missing(words[place], folder, base)
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [Path(os.path.normpath(folder / path)) for path in listed if path]
    return Program(words, name or what, base, folder, seed, threads, paths)


def repository(folder: Path) -> Path:
    """Return the git repository that a folder is in; where there is none, the folder itself."""
    command = ["git", "-C", str(folder), "rev-parse", "--show-toplevel"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # no git here
        return folder.resolve()
    return Path(done.stdout.strip() if done.returncode == 0 else folder).resolve()


def _python_words(words: list[str], folder: Path) -> list[str]:
    """The words after ``python``."""
    first = words[0] if words else ""
    if first.endswith(".py"):
        return words
    same = os.sep in first and (folder / first).absolute() == Path(sys.executable).absolute()
    if not (_PYTHON.fullmatch(first) or same):
        raise RunError(
            f"run: found {first or 'no command'!r}, expected a Python program, which can be seeded "
            "and watched: invoke run -- python FILE.py ..., or python -m MODULE ..."
        )
    return words[1:]


def place_of_program(words: list[str]) -> int:
    """Return the place of the file, or of ``-m``, behind the options of Python itself.

    Raises RunError for words that name no file and no module.
    """
    place = 0
    while place < len(words) and words[place].startswith("-"):
        option = words[place]
        if option == "-m" and place + 1 < len(words):
            return place
        if option in _ALONE:
            raise RunError(
                f"run: found python {option}, which switches the watch off; leave it out."
            )
        if option[:2] in ("-m", "-c") or option == "-":
            raise RunError(
                f"run: found python {' '.join(words[place:])}, expected python FILE.py ... or "
                "python -m MODULE ..."
            )
        place += 2 if option in _VALUED else 1
    if place >= len(words):
        raise RunError("run: found no program, expected invoke run -- python FILE.py ...")
    return place


def _refuse_missing(name: str, folder: Path, base: Path) -> None:
    path = Path(os.path.normpath(folder / name))
    if not path.is_file():
        beside = [one.name for one in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise RunError(f"{name}: no such file in {folder}.{nearest(path.name, beside)}")
    if not path.is_relative_to(base):
        raise RunError(
            f"{name}: is outside of {base}, expected a file of this repository; go to the "
            "repository of the file, and run it there."
        )
