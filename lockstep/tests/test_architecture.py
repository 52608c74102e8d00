"""The map of the engine: which part imports which, and who uses which library."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from lockstep.tests.conftest import ENGINE, ROOT

# Not part of the engine at work: its tests and benchmarks, and the examples, which are a project.
ASIDE = {"tests", "benchmarks", "examples", "setup.py"}
FILES = [
    path for path in sorted(ENGINE.rglob("*.py")) if path.relative_to(ENGINE).parts[0] not in ASIDE
]

PROJECTS = [path.parent for path in ROOT.glob("*/models") if path.parent != ENGINE]

# The arrows: what a part may import of the others. ``loading`` finds a trained model, for those
# that answer with one; ``model`` is the contract page, which projects import, as ``adapters``.
MAY_IMPORT = {
    "ground": set[str](),
    "program": set[str](),
    "adapters": {"ground", "program"},
    "config": {"ground"},
    "data": {"ground", "program"},
    "training": {"ground", "program"},
    "records": {"ground"},
    "bundles": {"ground"},
    "answers": {"ground", "bundles", "program"},
    "model": {"ground", "config", "answers", "program"},
    "run": {"ground", "config", "data", "training", "records", "answers", "program"},
    "tuning": {"ground", "config", "records", "run"},
    "tracking": {"ground", "records", "run"},
    "script": {"ground", "records"},
    "publishing": {
        *("ground", "config", "training", "answers", "bundles", "records", "run", "loading")
    },
    "loading": {"ground", "training", "answers", "bundles", "records", "publishing"},
    "serving": {"ground", "answers", "loading"},
    "sagemaker": {"ground", "publishing"},
    "workspace": {"ground", "records", "training"},
    "notebook": {"ground", "config", "data", "records", "run", "answers", "model"},
    "testing": {"program", "ground", "config", "data", "run", "tuning", "loading"},
    "__main__": {"cli"},
    "__init__": set[str](),
}

# Each big library is used by one part; boto3 by those that keep files and those that deploy them.
OWNERS = {
    "PIL": {"ground"},
    "boto3": {"ground", "sagemaker"},
    "botocore": {"ground", "sagemaker"},
    "cryptography": {"bundles"},
    "fastapi": {"serving"},
    "httptools": {"serving"},
    "matplotlib": {"records"},
    "mlflow": {"tracking"},
    "model_signing": {"bundles"},
    "onnx": {"publishing"},
    "onnxruntime": {"publishing"},
    "onnxscript": {"publishing"},
    "optuna": {"tuning"},
    "pooch": {"data"},
    "prometheus_client": {"serving"},
    "pyarrow": {"data"},
    "rich": {"ground"},
    "sagemaker_inference": {"publishing"},
    "sklearn": {"training"},
    "starlette": {"serving"},
}


class WithoutTypeChecking(ast.NodeTransformer):
    """Drops what only a type checker imports."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        self.generic_visit(node)
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


@cache
def tree(path: Path) -> ast.Module:
    module: ast.Module = WithoutTypeChecking().visit(ast.parse(path.read_text()))
    return module


def part(path: Path) -> str:
    """The part of the engine that a file belongs to."""
    return path.relative_to(ENGINE).parts[0].removesuffix(".py")


PARTS = {part(path) for path in FILES}


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Dotted names that the nodes import; ``from a import b`` may mean a or a.b and gives both."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are written in full"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def parts_of(names: set[str]) -> set[str]:
    """The parts of the engine among dotted names."""
    return {name.split(".")[1] for name in names if name.startswith("lockstep.")} & PARTS


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function and method of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


def test_the_map_has_every_part_that_there_is() -> None:
    assert {*MAY_IMPORT, "cli"} == PARTS


def test_imports_follow_the_arrows() -> None:
    against = {
        f"{path.relative_to(ROOT)} imports {other}"
        for path in FILES
        for other in parts_of(imports(ast.walk(tree(path)))) - {part(path)}
        if part(path) != "cli" and other not in MAY_IMPORT[part(path)]
    }
    assert against == set()


def test_the_engine_imports_no_project() -> None:
    names = {name for path in FILES for name in imports(ast.walk(tree(path)))}
    own = {f"lockstep.{name}" for name in ASIDE} | {"tests"} | {path.name for path in PROJECTS}
    assert {name for name in names if name.startswith(tuple(own))} == set()


def test_the_verbs_import_what_they_need_when_they_are_called() -> None:
    verbs = (ENGINE / "cli").glob("*.py")
    top = {name for path in verbs for name in imports(tree(path).body)}
    assert parts_of(top) - {"cli"} == {"ground"}


def test_listing_tasks_and_reading_settings_load_no_big_library() -> None:
    code = """
import sys
import tasks, lockstep.cli, lockstep.model
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {*done.stdout.split()} & {*OWNERS, "torch", "numpy"} == set()


def test_each_big_library_has_its_owners() -> None:
    users: dict[str, set[str]] = {library: set() for library in OWNERS}
    for path in FILES:
        for name in imports(ast.walk(tree(path))):
            users.get(name.split(".")[0], set()).add(part(path))
    assert users == OWNERS


def test_nothing_that_is_loaded_can_run_code(
    record_property: Callable[[str, object], None],
) -> None:
    pickles = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    record_property("times", len(FILES))
    for path in FILES:
        names = {name.split(".")[0] for name in imports(ast.walk(tree(path)))}
        assert (path, names & pickles) == (path, set())
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                forbidden = ("torch.load", "yaml.load", "yaml.unsafe_load", "builtins.eval")
                assert f"{node.value.id}.{node.attr}" not in forbidden, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "__import__"), path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                allowed = isinstance(node.value, ast.Constant) and node.value.value is False
                assert allowed, path


def test_a_file_has_a_name_that_says_something() -> None:
    empty_names = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
    names = {word for path in FILES for word in (*path.relative_to(ENGINE).parts, path.stem)}
    assert empty_names & names == set()


def test_the_loop_fits_one_screen() -> None:
    lines = dict(functions(ENGINE / "training" / "loop.py"))
    assert lines["train"] <= 60


def test_what_is_public_says_what_it_is_for() -> None:
    silent = set()
    for path in FILES:
        module = tree(path)
        if module.body and not ast.get_docstring(module):
            silent.add(path.name)
        silent |= {
            f"{path.name}: {node.name}"
            for node in module.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        }
    assert silent == set()
