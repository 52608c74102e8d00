"""What the README says can be done, is done; what it points to, is there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.tests.conftest import ROOT, copy_of_tracked_files
from lockstep.tests.publishing.test_audit import CANARY, advisories

README = (ROOT / "README.md").read_text()


def commands(page: str, where: str) -> list[list[str]]:
    """The runnable lines of a page, as a shell or Python would get them."""
    found = []
    blocks = re.findall(r"<!-- (run|in a copy) -->\n```(\w+)\n(.*?)```", page, re.DOTALL)
    for place, language, text in blocks:
        if place == where and language == "sh":
            found += [["sh", "-c", line] for line in text.splitlines()]
        elif place == where:
            found.append([sys.executable, "-c", text])
    return found


def run(words: list[str], folder: Path, **more: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PYTHONPATH": str(folder)} | more
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_and_digits_learns_what_its_recipe_says(
    tmp_path: Path,
) -> None:
    copy = copy_of_tracked_files(tmp_path)
    words = commands(README, "run") + commands(README, "in a copy")
    assert len(words) == 19
    for word in words:
        run(word, copy)
    (receipt,) = copy.glob("runs/digits-base-s42-*/receipt.json")
    assert json.loads(receipt.read_bytes())["results"]["metrics"]["test"]["accuracy"] >= 0.98


@pytest.mark.slow
def test_the_commands_of_the_pages_on_bundles_and_security_run(tmp_path: Path) -> None:
    copy = copy_of_tracked_files(tmp_path)
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=copy, check=True)
    (copy / "shared").mkdir()
    pages = [
        (ROOT / "lockstep" / "docs" / f"{name}.md").read_text() for name in ("bundle", "security")
    ]
    lines = [word for page in pages for word in commands(page, "in a copy")]
    assert len(lines) == 6
    with advisories({("jinja2", "2.4.1"): CANARY}) as (address, _):
        for line in lines:
            run(line, copy, LOCKSTEP_ADVISORIES=address)
    assert (copy / "keys" / "lockstep.key").exists()
    assert len([*copy.glob("shared/weights/digits/*/*/model.tar.gz")]) == 1


def test_the_two_commands_stand_on_top() -> None:
    top = README.splitlines()[:12]
    wanted = ("./workbench train --seed 42", "./workbench test")
    assert [any(command in line for line in top) for command in wanted] == [True, True]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "lockstep" / "docs").glob("*.md"))], ids=str
)
def test_every_link_and_file_named_is_there(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    tests = [
        str(os.path.relpath(ROOT / name, page.parent))
        for name in re.findall(r"lockstep/tests/[\w/]+\.py", text)
    ]
    assert [name for name in links + tests if not (page.parent / name).exists()] == []
    for name, test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        assert re.search(rf"^def {test}", (ROOT / name).read_text(), re.MULTILINE), test
