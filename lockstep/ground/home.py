"""The models: a folder each, with the same five names in it.

``Config``, ``Preprocess``, ``Model``, ``loss`` and ``Predictor``; nothing outside a model's folder
knows more of it. ``invoke new-model NAME`` writes one that trains.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from project.errors import ModelError
from project.files import nearest

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The models that there are."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.py"))


def module(name: str) -> ModuleType:
    """A model's package, with its five names. Raises ModelError for an unknown one."""
    _known(name)
    return importlib.import_module(f"project.models.{name}")


def config_of(name: str) -> type[Any]:
    """A model's Config, without loading the model and so without loading torch."""
    _known(name)
    qualified = f"project.models.{name}.config"
    if qualified not in sys.modules:
        # Under its own name, so that the model's package finds this very class when it is imported.
        spec = importlib.util.spec_from_file_location(qualified, FOLDER / name / "config.py")
        assert spec and spec.loader
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[qualified] = loaded
        spec.loader.exec_module(loaded)
    config: type[Any] = sys.modules[qualified].Config
    return config


def recipe(name: str, recipe_name: str) -> Path:
    """The file of a model's recipe. Raises ModelError for an unknown one."""
    _known(name)
    known = {path.stem: path for path in sorted((FOLDER / name / "recipes").glob("*.yaml"))}
    if recipe_name not in known:
        raise ModelError(
            f"{name}/{recipe_name}: no such recipe.{nearest(recipe_name, known)} "
            f"({name} has {', '.join(known) or 'none'})"
        )
    return known[recipe_name]


def _known(name: str) -> None:
    if name not in names():
        raise ModelError(
            f"{name}: no such model.{nearest(name, names())} (there are {', '.join(names())})"
        )
