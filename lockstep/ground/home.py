"""The home of models and data sets: the team's package, found by name, or the engine's examples.

A home is a package with a folder ``models``, which has a folder for each model, and a folder
``data``, which has a file for each data set. Nothing of it is imported before it is asked for.
"""

import functools
import importlib
import importlib.util
import os
import re
import sys
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep import __version__
from lockstep.ground.errors import LockstepError, ModelError, nearest

if TYPE_CHECKING:
    from lockstep.model import Config, Parts

ENGINE = Path(__file__).parents[1]
ROOT = ENGINE.parent  # of the clone, if there is one
EXAMPLES = "lockstep.examples"
TRACEBACK = "LOCKSTEP_TRACEBACK"  # set: errors in a project's code are shown whole
PROJECT = "LOCKSTEP_PROJECT"  # names another package than pyproject.toml does
GROUP = "lockstep.project"  # the entry points of installed teams' packages
# What torch says where ``determinism.enforce`` forbids it to compile.
_COMPILED = re.compile(
    r"Detected recompile .* filename: '(?P<file>.*)', .* line number: (?P<line>\d+)"
)
_UNNAMED = "project"  # the package of a team that has not chosen a name
NAMES = ("Config", "Preprocess", "Model", "loss", "Predictor")  # of a model's package


@dataclass(frozen=True)
class Home:
    """A package with models and a catalog of data sets."""

    package: str
    folder: Path

    @property
    def catalog(self) -> Path:
        """The folder with a file for each data set."""
        return self.folder / "data"

    def models(self) -> list[str]:
        """The names of the models: folders that are packages and have settings or recipes."""
        folders = {path.parent for path in self.folder.glob("models/*/__init__.py")}
        has_settings = ("config.py", "recipes")
        return sorted(f.name for f in folders if any((f / name).exists() for name in has_settings))

    def folder_of(self, model: str) -> Path:
        """A model's folder. Raises ModelError for an unknown one, with the nearest name."""
        known = self.models()
        if model not in known:
            listed = f"(there are {', '.join(known)})" if known else "(there are none)"
            raise ModelError(
                f"{model}: no such model.{nearest(model, known)} {listed}{_like(model)}"
            )
        return self.folder / "models" / model

    def name_of(self, model: str) -> str:
        """The dotted name of a model's package."""
        return f"{self.package}.models.{model}"

    def published_name(self, model: str) -> str:
        """The name of a model's published weights: ``acme.digits``, apart from other teams'.

        From a package that is still called ``project``: ``digits``.
        """
        return model if self.package == _UNNAMED else f"{self.package}.{model}"

    @property
    def version(self) -> str:
        """The version of the package, which its published weights have.

        Read from the clone's pyproject.toml, or from the installed distribution. Raises ModelError
        if neither names one.
        """
        if self.package == EXAMPLES:
            return __version__
        project = _project()
        if _package(project) == self.package and "version" in project:
            return str(project["version"])
        for point in metadata.entry_points(group=GROUP):
            if point.value == self.package and point.dist:
                return point.dist.version
        raise ModelError(
            f"{self.package}: no version found; write [project] version into pyproject.toml."
        )

    def module(self, model: str) -> "Parts":
        """A model's package, with its five names. Raises ModelError if it lacks one of them."""
        folder = self.folder_of(model)
        try:
            found: Any = importlib.import_module(self.name_of(model))
        except ModuleNotFoundError as error:
            raise ModelError(
                f"{folder}: module {error.name!r} not found; correct the import, or add its "
                "package: ./workbench add NAME."
            ) from error
        if missing := [name for name in NAMES if not hasattr(found, name)]:
            raise ModelError(
                f"{folder / '__init__.py'}: {missing[0]} not found, expected {', '.join(NAMES)}; "
                "define or import it there (lockstep/docs/models.md has an example)."
            )
        parts: Parts = found
        return parts

    def config_of(self, model: str) -> "type[Config]":
        """A model's Config; from its ``config.py`` if it has one, which does not load torch."""
        path = self.folder_of(model) / "config.py"
        if not path.exists():
            return self.module(model).Config
        qualified = f"{self.name_of(model)}.config"
        if qualified not in sys.modules:
            # Under its own name, so that the model's package finds this very class later.
            spec = importlib.util.spec_from_file_location(qualified, path)
            assert spec and spec.loader
            loaded = importlib.util.module_from_spec(spec)
            sys.modules[qualified] = loaded
            spec.loader.exec_module(loaded)
        config: type[Config] = sys.modules[qualified].Config
        return config

    def recipes(self, model: str) -> dict[str, Path]:
        """A model's recipes, name to file."""
        folder = self.folder_of(model) / "recipes"
        return {path.stem: path for path in sorted(folder.glob("*.yaml"))}

    def recipe(self, model: str, name: str) -> Path:
        """The file of a model's recipe. Raises ModelError for an unknown one."""
        known = self.recipes(model)
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ModelError(
                f"{model}/{name}: no such recipe.{nearest(name, known)} ({model} has {listed})"
            )
        return known[name]

    def default_model(self) -> str:
        """The model that is meant when none is named: the only one there is.

        Raises ModelError where there are several, or none.
        """
        known = self.models()
        if len(known) == 1:
            return known[0]
        if not known:
            raise ModelError(f"{self.package}: no model found; `invoke new-model NAME` makes one.")
        raise ModelError(f"model: not named, expected one of {', '.join(known)}; add --model NAME.")


def _like(model: str) -> str:
    """The next command, for the name of an example that the home does not have."""
    example = ENGINE / "examples" / "models" / model
    if not example.is_dir():
        return ""
    return f" `invoke new-model {model} --like {model}` copies the example of that name."


def here() -> Home:
    """The home that commands work in: LOCKSTEP_PROJECT, the clone's, or the one that is installed.

    Raises ModelError if there is none, or more than one is installed.
    """
    return of(os.environ.get(PROJECT) or package_of_clone() or _installed())


def or_here(package: str) -> Home:
    """The home that a run or a bundle names; where that is not installed, ``here()``.

    So the runs of a team that has renamed its package still answer.
    """
    try:
        return of(package)
    except ModelError:
        return here()


def examples() -> Home:
    """The engine's own models and data sets."""
    return of(EXAMPLES)


@functools.cache
def of(package: str) -> Home:
    """The home that a package is. Raises ModelError if there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"{package}: package not found; check [project] name in pyproject.toml, or {PROJECT}."
        )
    return Home(package, Path(next(iter(spec.submodule_search_locations))))


def _project() -> dict[str, Any]:
    """The section [project] of the clone's pyproject.toml; empty if the engine is installed."""
    path = ROOT / "pyproject.toml"
    try:
        return dict(tomllib.loads(path.read_text())["project"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: not readable ({error}), expected [project] with name and version; correct it."
        ) from error


def _package(project: dict[str, Any]) -> str:
    return str(project.get("name", "")).replace("-", "_")


def package_of_clone() -> str:
    """Return the package that the clone's pyproject.toml names. Raises ModelError if it is odd."""
    return _package(_project())


def _installed() -> str:
    packages = sorted({point.value for point in metadata.entry_points(group=GROUP)})
    if len(packages) == 1:
        return packages[0]
    if packages:
        raise ModelError(
            f"{PROJECT}: not set, and {len(packages)} projects are installed; set it to one of "
            f"{', '.join(packages)}."
        )
    raise ModelError(
        f"{PROJECT}: not set, and no project is installed; `pip install` one, or set it to the "
        "name of a package with models."
    )


@contextmanager
def readable_errors(what: str, about: str = "", *, anywhere: bool = False) -> Iterator[None]:
    """Turn an error in the project's code into a ModelError of one line, with its file and line.

    ``what`` names what was called, ``about`` what it was called with. Errors that did not go
    through the project's code stay as they are unless they may come from ``anywhere``, and so do
    all where LOCKSTEP_TRACEBACK is set.
    """
    try:
        yield
    except LockstepError:
        raise
    except Exception as error:
        place = place_of(error)
        if compiled := _COMPILED.search(str(error)):
            if Path(compiled["file"]).is_relative_to(here().folder):
                place = f"{Path(compiled['file']).name}, line {compiled['line']}"
            raise ModelError(
                f"{what}: calls what torch.compile makes{f' ({place})' if place else ''}, expected "
                "a model that torch runs as it is: compiled code has other bits on other CPUs, and "
                "after other shapes; leave torch.compile out."
            ) from error
        if not (place or anywhere) or os.environ.get(TRACEBACK):
            raise
        reason = next(iter(str(error).splitlines()), "")
        line = f" ({place})" if place else ""
        raise ModelError(
            f"{what}: {type(error).__name__}: {reason}{line}{about}; {TRACEBACK}=1 shows where."
        ) from error


def place_of(error: BaseException) -> str:
    """Return the last line of the project's code that an error went through, else nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(here().folder):
            return f"{Path(frame.filename).name}, line {frame.lineno}"
    return ""
