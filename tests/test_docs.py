"""What the README says can be done, is done; what it points to, is there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, copy_of_tracked_files

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"<!-- (run|in a copy) -->\n```(\w+)\n(.*?)```", README, re.DOTALL)


def commands(where: str) -> list[list[str]]:
    """The runnable lines, as a shell or Python would get them."""
    found = []
    for place, language, text in BLOCKS:
        if place == where and language == "sh":
            found += [["sh", "-c", line] for line in text.splitlines()]
        elif place == where:
            found.append([sys.executable, "-c", text])
    return found


def run(words: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PYTHONPATH": str(folder)}
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_and_digits_learns_what_its_recipe_says(
    tmp_path: Path,
) -> None:
    copy = copy_of_tracked_files(tmp_path)
    words = commands("run") + commands("in a copy")
    assert len(words) == 18
    for word in words:
        run(word, copy)
    (receipt,) = copy.glob("runs/digits-base-s42-*/receipt.json")
    assert json.loads(receipt.read_bytes())["results"]["metrics"]["test"]["accuracy"] >= 0.98


def test_the_two_commands_stand_on_top() -> None:
    top = README.splitlines()[:12]
    wanted = ("./workbench train --seed 42", "./workbench test")
    assert [any(command in line for line in top) for command in wanted] == [True, True]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=str
)
def test_every_link_and_file_named_is_there(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    tests = [
        str(os.path.relpath(ROOT / name, page.parent))
        for name in re.findall(r"tests/[\w/]+\.py", text)
    ]
    assert [name for name in links + tests if not (page.parent / name).exists()] == []
