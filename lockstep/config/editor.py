"""Tells VS Code's YAML extension the schema of each recipe and of each file of the catalog.

Schemas follow from the models' Configs; they are written into ``.vscode``, which git ignores.
"""

import json
from pathlib import Path
from typing import Any

from lockstep.config.schema import recipe_schema
from lockstep.ground.errors import LockstepError, SettingError
from lockstep.ground.files import write_atomically, write_errors
from lockstep.ground.home import ENGINE, ROOT, Home, examples, here

SETTINGS, SCHEMAS = Path(".vscode/settings.json"), Path(".vscode/schemas")
_CATALOG = ENGINE / "data" / "catalog.schema.json"
_KEY = "yaml.schemas"


def write(root: Path = ROOT) -> list[Path]:
    """Write the schemas and name them in ``.vscode/settings.json``; return the files.

    Raises SettingError for a ``settings.json`` that cannot be extended, before anything is written,
    and for models without a schema, after those of the others are written.
    """
    settings = _settings(root / SETTINGS)
    homes = [here()] if here() == examples() else [here(), examples()]
    texts = {SCHEMAS / "catalog.json": _CATALOG.read_text()}
    files = {SCHEMAS / "catalog.json": [f"{_folder(home)}/data/*.yaml" for home in homes]}
    problems: list[str] = []
    for home in homes:
        for model in home.models():
            path = _path(home, model)
            try:
                texts[path] = _text(home, model)
                files[path] = [f"{_folder(home)}/models/{model}/recipes/*.yaml"]
            except LockstepError as error:
                problems.append(str(error))
    named = {str(path): globs for path, globs in files.items()}
    settings[_KEY] = settings.get(_KEY, {}) | named
    texts[SETTINGS] = json.dumps(settings, indent=4, ensure_ascii=False) + "\n"
    with write_errors(root / SCHEMAS):
        (root / SCHEMAS).mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        write_atomically(root / path, text.encode())
    if problems:
        raise SettingError("\n".join(problems))
    return [root / path for path in texts]


def refresh(home: Home, model: str, root: Path = ROOT) -> None:
    """Write the schemas again if they are in use and a model is new or its Config changed.

    Raises SettingError as ``write`` does.
    """
    path = root / _path(home, model)
    if not path.parent.is_dir() or not home.folder.is_relative_to(root):
        return
    if not path.exists() or path.read_text() != _text(home, model):
        write(root)


def _path(home: Home, model: str) -> Path:
    return SCHEMAS / f"{home.package}.{model}.json"


def _text(home: Home, model: str) -> str:
    return json.dumps(recipe_schema(home.config_of(model)), indent=1) + "\n"


def _folder(home: Home) -> str:
    return home.package.replace(".", "/")


def _settings(path: Path) -> dict[str, Any]:
    """The settings of the workspace so far. Raises SettingError if they are not plain JSON."""
    try:
        settings = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise SettingError(
            f"{path}: found {error}, expected JSON without comments, to add {_KEY!r} to; correct "
            "it, then run `invoke schema`."
        ) from None
    if not isinstance(settings, dict) or not isinstance(settings.get(_KEY, {}), dict):
        raise SettingError(f"{path}: expected an object with {_KEY!r} as another; correct it.")
    return settings
