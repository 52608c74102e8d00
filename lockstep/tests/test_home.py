"""The home of models: found by its name, with a version and published names of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lockstep
from lockstep.ground.home import ENGINE, Home, examples
from lockstep.tests.conftest import plain_environment

PYPROJECT = '[project]\nname = "acme-vision"\nversion = "2.1"\n'


def asked(folder: Path, code: str, pyproject: str = PYPROJECT) -> str:
    """What a process prints, or the error of its last line, in a clone with this pyproject.toml."""
    shutil.copytree(ENGINE / "ground", folder / "lockstep" / "ground")
    shutil.copy(ENGINE / "__init__.py", folder / "lockstep")
    (folder / "acme_vision").mkdir()
    (folder / "acme_vision" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(pyproject)
    mine = plain_environment() | {"PYTHONPATH": str(folder), "LOCKSTEP_PROJECT": ""}
    words = [sys.executable, "-c", f"from lockstep.ground.home import here\n{code}"]
    done = subprocess.run(words, cwd="/", env=mine, capture_output=True, text=True)
    return (done.stdout or done.stderr).strip().rpartition("\n")[2]


def test_a_clone_names_its_package_in_one_line(tmp_path: Path) -> None:
    code = "home = here(); print(home.package, home.version, home.published_name('digits'))"
    assert asked(tmp_path, code) == "acme_vision 2.1 acme_vision.digits"


def test_a_package_that_is_still_called_project_publishes_under_the_models_own_names() -> None:
    assert Home("project", Path("project")).published_name("digits") == "digits"
    assert examples().published_name("digits") == "lockstep.examples.digits"
    assert examples().version == lockstep.__version__


@pytest.mark.parametrize(
    ("pyproject", "told"),
    [
        (f"<<<<<<< HEAD\n{PYPROJECT}", "not readable (Invalid statement"),
        ("[tool.black]\n", "not readable ('project'), expected [project] with name and version"),
        (PYPROJECT.replace("acme", "other"), "other_vision: package not found; check [project]"),
    ],
)
def test_a_pyproject_that_names_no_package_is_refused_in_one_line(
    pyproject: str, told: str, tmp_path: Path
) -> None:
    line = asked(tmp_path, "here()", pyproject)
    assert (line.startswith("lockstep.ground.errors.ModelError: "), told in line) == (True, True)


def test_a_clone_without_a_version_says_where_to_write_it(tmp_path: Path) -> None:
    line = asked(tmp_path, "here().version", PYPROJECT.replace("version", "# version"))
    assert line.endswith(
        "acme_vision: no version found; write [project] version into pyproject.toml."
    )
