"""The schemas by which an editor checks recipes and catalog files say what reading them says."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from lockstep.config import editor
from lockstep.config.experiment import setting
from lockstep.config.recipe import resolve
from lockstep.config.schema import recipe_schema
from lockstep.data import catalog
from lockstep.data.decode import DECODERS, READERS
from lockstep.ground import home, yaml_text
from lockstep.ground.errors import SettingError
from lockstep.tests.conftest import ROOT

EXAMPLES = home.examples()
Lockstep = Callable[..., "subprocess.CompletedProcess[str]"]
RECIPES = [
    (model, path) for model in EXAMPLES.models() for path in EXAMPLES.recipes(model).values()
]
CATALOG = json.loads((home.ENGINE / "data" / "catalog.schema.json").read_text())


def schema_of(model: str) -> dict[str, Any]:
    return recipe_schema(EXAMPLES.config_of(model))


def mistakes(schema: dict[str, Any], content: Any) -> list[str]:
    """The places, as dotted keys, at which a schema finds content wrong."""
    errors = Draft7Validator(schema).iter_errors(content)
    return sorted({".".join(map(str, error.absolute_path)) for error in errors})


@pytest.mark.parametrize("schema", [CATALOG, *map(schema_of, EXAMPLES.models())])
def test_a_schema_is_one_of_draft_7(schema: dict[str, Any]) -> None:
    Draft7Validator.check_schema(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(("model", "path"), RECIPES, ids=lambda item: getattr(item, "stem", item))
def test_every_recipe_fits_the_schema_of_its_model(model: str, path: Path) -> None:
    assert mistakes(schema_of(model), yaml_text.load(path.read_text())) == []


@pytest.mark.parametrize("recipe", ["", "training:\n", "accept: {}", "training: {lr: 1e-4}"])
def test_what_a_recipe_leaves_out_is_no_mistake(recipe: str) -> None:
    assert mistakes(schema_of("apparel"), yaml_text.load(recipe)) == []


@pytest.mark.parametrize(
    ("recipe", "place"),
    [
        ("trainings: {lr: 1}", ""),
        ("- training", ""),
        ("training: 3", "training"),
        ("training: {epoch: 5}", "training"),
        ("training: {epochs: 0}", "training.epochs"),
        ("training: {epochs: 2.5}", "training.epochs"),
        ("training: {epochs: true}", "training.epochs"),
        ("training: {lr: fast}", "training.lr"),
        ("training: {lr: null}", "training.lr"),
        ("training: {optimizer: sdg}", "training.optimizer"),
        ("training: {shards: 6}", "training.shards"),
        ("data: {name: 5}", "data.name"),
        ("model: {dropuot: 0.1}", "model"),
        ("model: {dropout: 0.99}", "model.dropout"),
        ("model: {flip: 2}", "model.flip"),
        ("model: {widths: 16}", "model.widths"),
        ("model: {widths: [16, 32, 0]}", "model.widths.2"),
        ("accept: {tset.accuracy: '>= 0.9'}", "accept"),
        ("accept: {test.accuracy: 0.9}", "accept.test.accuracy"),
        ("accept: {size_mb: 5}", "accept.size_mb"),
        ("accept: {size_mb: '== 5'}", "accept.size_mb"),
    ],
)
def test_what_reading_refuses_is_marked_at_its_place(
    tmp_path: Path, recipe: str, place: str
) -> None:
    assert mistakes(schema_of("apparel"), yaml_text.load(recipe)) == [place]
    path = tmp_path / "mine.yaml"
    path.write_text(recipe)
    with pytest.raises(SettingError):
        resolve("apparel", path, EXAMPLES.config_of("apparel"))


@pytest.mark.parametrize(
    "space",
    [
        "training.lrr: {low: 0.1, high: 0.2}",
        "training.lr: 0.1",
        "training.lr: {low: -0.1, high: 0.2}",
        "training.lr: {low: 0.1}",
        "training.lr: {low: 0.1, high: 0.2, choices: [0.1, 0.2]}",
        "training.lr: {from: 1, to: 2}",
        "training.epochs: {low: 0.5, high: 8}",
        "training.epochs: {low: 1, high: 8, step: 0}",
        "training.optimizer: {choices: [sgd, lion]}",
        "training.optimizer: {choices: [sgd]}",
        "training.schedule: {low: 0, high: 1}",
        "training.shards: {low: 1, high: 8}",
        "training.workers: {choices: [1, 2]}",
        "training.profile: {choices: [native, portable]}",
        "model.widths: {choices: [[16, 32], [16, none]]}",
    ],
)
def test_a_space_to_search_is_checked_as_the_settings_are(space: str) -> None:
    found = mistakes(schema_of("apparel"), yaml_text.load(f"tune: {{{space}}}"))
    assert found and all(place.startswith("tune") for place in found)


@dataclass(frozen=True)
class Rare:
    """Types of settings that the examples do not use."""

    clip: float | None = setting(None, "a number or none", low=0)
    weights: dict[str, float] = setting({}, "a number for each name", low=0)
    grid: list[list[int]] = setting([[1]], "rows of numbers", low=1)


@pytest.mark.parametrize(
    ("model", "fits"),
    [
        ("{}", True),
        ("{clip: 1}", True),
        ("{clip: null}", True),
        ("{clip: -1}", False),
        ("{clip: none}", False),
        ("{weights: {a: 1, b: 0.5}}", True),
        ("{weights: {a: -1}}", False),
        ("{weights: [1]}", False),
        ("{grid: [[1, 2], []]}", True),
        ("{grid: [[0]]}", False),
        ("{grid: [1]}", False),
    ],
)
def test_schema_and_reading_agree_on_every_type(tmp_path: Path, model: str, fits: bool) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"model: {model}")
    found = mistakes(recipe_schema(Rare), yaml_text.load(path.read_text()))
    assert (found == []) == fits
    if fits:
        resolve("rare", path, Rare)
    else:
        with pytest.raises(SettingError, match=r"mine\.yaml: model\.\w+: found "):
            resolve("rare", path, Rare)


def test_an_editor_shows_type_and_meaning_of_each_setting() -> None:
    (keys,) = schema_of("digits")["allOf"]
    (training,) = keys["properties"]["training"]["allOf"]
    assert training["properties"]["shards"] == {
        "description": "blocks of a batch whose gradients are summed along a tree\n\n"
        "int, a power of two from 1 to 256, default 8",
        "default": 8,
        "type": "integer",
        "minimum": 1,
        "maximum": 256,
        "enum": [1, 2, 4, 8, 16, 32, 64, 128, 256],
    }


@pytest.mark.parametrize("name", catalog.names(EXAMPLES.catalog))
def test_every_file_of_the_catalog_fits_its_schema(name: str) -> None:
    content = yaml_text.load((EXAMPLES.catalog / f"{name}.yaml").read_text())
    assert mistakes(CATALOG, content) == []


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("licence:", "license:", ""),
        ("origin: https", "origin: []\nwas: https", ""),
        ("decoder: digits", "decoder: digit", "versions.0.decoder"),
        ("shape: [8, 8]", "shape: [8, -8]", "versions.0.shape.1"),
        ('labels: ["0", "1"', 'labels: ["1", "1"', "versions.0.labels"),
        ("rows: {train: 1257, ", "rows: {trian: 1257, ", "versions.0.rows"),
        ("sha256: 09", "sha256: Z9", "versions.0.files.0.sha256"),
        ("size: 57523", "size: big", "versions.0.files.0.size"),
    ],
)
def test_a_mistake_in_a_file_of_the_catalog_is_marked(old: str, new: str, place: str) -> None:
    text = (EXAMPLES.catalog / "digits.yaml").read_text()
    assert old in text
    assert place in mistakes(CATALOG, yaml.safe_load(text.replace(old, new)))


def test_the_schema_of_the_catalog_knows_every_decoder() -> None:
    decoders = CATALOG["definitions"]["version"]["properties"]["decoder"]["enum"]
    assert decoders == sorted({**DECODERS, **READERS})


@pytest.fixture
def clone(tmp_path: Path) -> Lockstep:
    """Run ``python -m lockstep`` in ``tmp_path``: the engine, and a project that has digits."""
    left_out = shutil.ignore_patterns("tests", "docs", "benchmarks", "__pycache__")
    shutil.copytree(ROOT / "lockstep", tmp_path / "lockstep", ignore=left_out)
    project = tmp_path / "project"
    shutil.copytree(EXAMPLES.folder_of("digits"), project / "models" / "digits", ignore=left_out)
    (project / "data").mkdir()
    shutil.copy(EXAMPLES.catalog / "digits.yaml", project / "data")
    for package in (project, project / "models"):
        (package / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "project"\nversion = "1.0"\n')

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "lockstep", *words]
        variables = {"PATH": "", "LOCKSTEP_TRACK": "off"}
        return subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )

    return call


def schemas(root: Path) -> Any:
    return json.loads((root / editor.SETTINGS).read_text())["yaml.schemas"]


def test_each_recipe_and_catalog_file_has_its_schema_in_the_settings_of_the_workspace(
    tmp_path: Path, clone: Lockstep
) -> None:
    (tmp_path / ".vscode").mkdir()
    kept = {"editor.tabSize": 4, "yaml.schemas": {"mine.json": "mine/*.yaml"}}
    (tmp_path / editor.SETTINGS).write_text(json.dumps(kept))
    done = clone("schema")
    assert (done.returncode, done.stderr) == (0, "")
    named = schemas(tmp_path)
    assert named.pop("mine.json") == "mine/*.yaml"
    assert json.loads((tmp_path / editor.SETTINGS).read_text())["editor.tabSize"] == 4
    assert set(done.stdout.split()) == {
        str(tmp_path / path) for path in (*named, str(editor.SETTINGS))
    }
    schema_of_file = {
        file: json.loads((tmp_path / path).read_text())
        for path, patterns in named.items()
        for pattern in patterns
        for file in tmp_path.glob(pattern)
    }
    files = [path for path in tmp_path.rglob("*.yaml") if path.parent.name in ("recipes", "data")]
    assert sorted(schema_of_file) == sorted(files)
    assert {len(mistakes(schema, yaml_text.load(file.read_text()))) for file, schema
            in schema_of_file.items()} == {0}  # fmt: skip


@pytest.mark.parametrize("folder", [".devcontainer", ".devcontainer/gpu"])
def test_a_dev_container_writes_the_schemas_when_it_is_created(
    tmp_path: Path, clone: Lockstep, folder: str
) -> None:
    text = (ROOT / folder / "devcontainer.json").read_text()
    begin = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert "redhat.vscode-yaml" in begin["customizations"]["vscode"]["extensions"]
    (tmp_path / ".venv").symlink_to(sys.prefix)
    subprocess.run(["sh", "-c", begin["postCreateCommand"]["schemas"]], cwd=tmp_path, check=True)
    assert all((tmp_path / path).exists() for path in schemas(tmp_path))


def test_a_new_model_and_a_changed_one_have_their_schema_at_once(
    tmp_path: Path, clone: Lockstep
) -> None:
    assert clone("config").returncode == 0
    assert not (tmp_path / ".vscode").exists()  # nobody has asked for schemas
    clone("schema")
    assert clone("new-model", "mine").returncode == 0
    path = ".vscode/schemas/project.mine.json"
    assert schemas(tmp_path)[path] == ["project/models/mine/recipes/*.yaml"]
    recipe = {"model": {"depth": 3}}
    assert mistakes(json.loads((tmp_path / path).read_text()), recipe) == ["model"]
    config = tmp_path / "project" / "models" / "mine" / "config.py"
    config.write_text(config.read_text().replace(
        "    shift: int", '    depth: int = setting(2, "layers", low=1)\n    shift: int'
    ))  # fmt: skip
    assert clone("config", "mine").returncode == 0
    assert mistakes(json.loads((tmp_path / path).read_text()), recipe) == []


def test_settings_with_comments_are_left_as_they_are(tmp_path: Path, clone: Lockstep) -> None:
    (tmp_path / ".vscode").mkdir()
    (tmp_path / editor.SETTINGS).write_text("{} // mine\n")
    done = clone("schema")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path / editor.SETTINGS}: found Extra data")
    assert done.stderr.endswith("correct it, then run `invoke schema`.\n")
    assert (tmp_path / editor.SETTINGS).read_text() == "{} // mine\n"
    assert not (tmp_path / editor.SCHEMAS).exists()


def test_a_model_without_a_schema_is_named_and_the_others_have_theirs(
    tmp_path: Path, clone: Lockstep
) -> None:
    config = tmp_path / "project" / "models" / "digits" / "config.py"
    config.write_text(config.read_text().replace("width: int", "width: complex"))
    done = clone("schema")
    assert (done.returncode, done.stderr) == (
        2,
        "error: project.models.digits.config.Config.width: found the type <class 'complex'>, "
        "expected bool, int, float, str, a list or dict[str, ...] of them, or `| None`.\n",
    )
    assert set(schemas(tmp_path)) == {".vscode/schemas/catalog.json"} | {
        f".vscode/schemas/lockstep.examples.{model}.json" for model in EXAMPLES.models()
    }
