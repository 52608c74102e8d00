"""The map of DESIGN.md, held: who imports whom, who owns which library, how large things are."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from lockstep.tests.conftest import ROOT

FILES = sorted((ROOT / "lockstep").rglob("*.py"))
each = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))

# What a part may import of the others. What it needs besides, it is given.
LEAVES = {"errors", "files"}
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "processes": set(),
    "budgets": {"files"},
    "config": LEAVES | {"budgets"},
    "aws": {"errors"},
    "storage": LEAVES | {"aws"},
    "pictures": LEAVES,
    "data": LEAVES | {"pictures", "storage"},
    "bundles": LEAVES,
    "models": LEAVES | {"config", "pictures", "bundles"},
    "training": LEAVES | {"processes"},
    "records": LEAVES | {"processes"},
    "acceptance": {"errors", "budgets", "models", "records", "trained", "experiment"}
    | {"place", "watch"},
    "tracking": LEAVES | {"processes", "records", "watch"},
    "place": set(),
    "watch": set(),
    "console": {"watch"},
    "doctor": {"records", "training"},
    "images": LEAVES | {"records", "place", "watch"},
    "parity": {"errors", "images", "place", "watch"},
    "recorder": LEAVES | {"config", "data", "training", "records", "watch"},
    "experiment": LEAVES
    | {"config", "data", "models", "training", "records", "recorder", "place", "watch"},
    "tuning": LEAVES | {"config", "records", "processes", "watch"},
    "serving": LEAVES | {"models", "pictures", "trained"},
    "trained": LEAVES
    | {"bundles", "console", "deployment", "models", "place", "records", "training"},
    "deployment": LEAVES
    | {"aws", "bundles", "models", "processes", "records", "storage", "training", "watch"},
    "notebook": {"errors", "config", "data", "models", "training", "records", "place", "console"}
    | {"experiment"},
    "__init__": {"errors", "models", "trained"},
    "__main__": {"cli"},
}
PARTS = {path.relative_to(ROOT / "lockstep").parts[0].removesuffix(".py") for path in FILES}

# Each big library is known to one part only; boto3 to those that keep files and deploy them.
OWNER = {
    "pooch": "data",
    "pyarrow": "data",
    "boto3": "storage deployment",
    "botocore": "aws storage deployment",
    "PIL": "pictures",
    "sklearn": "training",
    "matplotlib": "records",
    "optuna": "tuning",
    "mlflow": "tracking",
    "rich": "console",
    "fastapi": "serving",
    "starlette": "serving",
    "model_signing": "bundles",
    "cryptography": "bundles",
    "onnx": "deployment",
    "onnxruntime": "deployment",
    "onnxscript": "deployment",
    "sagemaker_inference": "deployment",
    "uvicorn": "serving",
    "prometheus_client": "serving",
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def part(path: Path) -> str:
    """The part of the package that a file belongs to."""
    return path.relative_to(ROOT / "lockstep").parts[0].removesuffix(".py")


def imports(nodes: Iterator[ast.AST]) -> set[str]:
    """Dotted names that the nodes import; ``from a import b`` may mean a or a.b and gives both."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are written in full"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def parts_of(names: set[str]) -> set[str]:
    """The parts of the package among dotted names."""
    seconds = {name.split(".")[1] for name in names if name.startswith("project.")}
    return seconds & PARTS


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function and method of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


def test_the_map_has_every_part_that_there_is() -> None:
    assert {*MAY_IMPORT, "cli"} == PARTS


@each
def test_imports_follow_the_arrows(path: Path) -> None:
    mine = part(path)
    if mine != "cli":
        found = parts_of(imports(ast.walk(tree(path)))) - {mine}
        assert found - MAY_IMPORT[mine] == set()


def test_the_verbs_import_what_they_need_when_they_are_called() -> None:
    verbs = (ROOT / "lockstep" / "cli").glob("*.py")
    top = {name for path in verbs for name in imports(iter(tree(path).body))}
    assert parts_of(top) - {"cli"} == {"errors", "files", "models"}
    assert (
        imports(iter(tree(ROOT / "lockstep" / "models" / "__init__.py").body)) & set(OWNER) == set()
    )


def test_the_tasks_know_of_the_package_how_a_child_follows_its_parent_and_only_when_called() -> (
    None
):
    tasks = tree(ROOT / "tasks.py")
    found, top = (
        {name for name in imports(nodes) if name.split(".")[0] == "project"}
        for nodes in (ast.walk(tasks), iter(tasks.body))
    )
    assert (parts_of(found), top) == ({"processes"}, set())


def test_what_the_tasks_load_of_the_package_needs_the_standard_library_alone() -> None:
    loaded = [ROOT / "lockstep" / name for name in ("__init__.py", "processes.py")]
    found = {name.split(".")[0] for path in loaded for name in imports(iter(tree(path).body))}
    assert found - sys.stdlib_module_names == set()


def test_each_big_library_has_its_owners() -> None:
    users: dict[str, set[str]] = {library: set() for library in OWNER}
    for path in FILES:
        for name in imports(ast.walk(tree(path))):
            users.get(name.split(".")[0], set()).add(part(path))
    assert users == {library: set(owners.split()) for library, owners in OWNER.items()}


@each
def test_nothing_that_is_loaded_can_run_code(path: Path) -> None:
    pickles = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    assert {name.split(".")[0] for name in imports(ast.walk(tree(path)))} & pickles == set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            forbidden = ("torch.load", "yaml.load", "yaml.unsafe_load", "builtins.eval")
            assert f"{node.value.id}.{node.attr}" not in forbidden
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "__import__")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


@each
def test_a_file_has_a_name_that_says_something_and_at_most_400_lines(path: Path) -> None:
    empty_names = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
    assert empty_names & {*path.relative_to(ROOT).parts, path.stem} == set()
    assert len(path.read_text().splitlines()) <= 400


def test_no_function_is_longer_than_60_lines() -> None:
    long = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in FILES
        for name, lines in functions(path)
        if lines > 60
    }
    assert long == set()


def test_the_loop_fits_one_screen() -> None:
    lines = dict(functions(ROOT / "lockstep" / "training" / "loop.py"))
    assert lines["train"] <= 60


@each
def test_what_is_public_says_what_it_is_for(path: Path) -> None:
    body = tree(path).body
    public = [
        node
        for node in body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    silent = [node.name for node in public if not ast.get_docstring(node)]
    assert (silent, body == [] or bool(ast.get_docstring(tree(path)))) == ([], True)
