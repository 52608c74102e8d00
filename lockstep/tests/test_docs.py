"""Every command of every page runs, in a copy of this clone; every file that a page names exists.

Each block of shell or Python in a page has a mark in the line above it, an HTML comment:

- ``run``: it runs in a clone in which nothing was trained, within the fast tests;
- ``run slow``: it runs in a clone that has a finished run of digits with seed 42;
- ``run slow, serving at PORT``: the same, in the background until the page's last block has run;
- ``file PATH``: it is the content of this file, for the blocks below it;
- ``run by TEST``: this test runs it, in a place that it needs;
- ``not run: needs X``: it cannot run here, for a reason out of NEEDS.
"""

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lockstep.tests.conftest import ROOT, copy_of_tracked_files, plain_environment
from lockstep.tests.publishing.test_audit import CANARY, advisories
from lockstep.tests.test_data_verb import garments

ENGINE = ROOT / "lockstep"
README = ROOT / "README.md"
OURS = README.exists() and README.read_text().startswith("# Lockstep\n")  # a team writes its own
PAGES = [
    *([README] if OURS else []),
    *sorted((ENGINE / "docs").glob("*.md")),
    *(path for path in sorted(ENGINE.glob("*.md"))),
    ENGINE / "benchmarks" / "README.md",
    *([wheels] if (wheels := ROOT / "wheelhouse" / "README.md").exists() else []),
]
NEEDS = (
    "a Docker engine",
    "an AWS account",
    "a cluster",
    "a package index",
    "GitHub",
    "an idle machine",
    "minutes, and would run this test",
    "published weights of apparel",
    "packages of two teams",
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (.*) -->\n\Z")
_COMMAND = re.compile(r"^ {4,}(invoke|python|pip|docker|git|curl|export|\./workbench)\b", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and what the comment above it says of how it is run."""

    language: str
    text: str
    mark: str

    @property
    def port(self) -> str:
        return self.mark.partition(" serving at ")[2]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text()
    return [
        Block(fence[2], fence[3], mark[1] if (mark := _MARK.search(text, 0, fence.start())) else "")
        for fence in _FENCE.finditer(text)
    ]


class Clone:
    """A copy of this clone whose project is the one that Lockstep begins with: digits."""

    def __init__(self, folder: Path, **variables: str):
        self.folder = copy_of_tracked_files(folder)
        self._begin_project()
        self._link_environment()
        for words in (["init", "--quiet"], ["add", "--all"]):
            subprocess.run(["git", *words], cwd=folder, check=True)
        # What a reader has beside the clone: a table in two versions, pictures, a shared folder.
        head, rows = "number,title,review,stars", range(30)
        lines = [f"{n},Title {n},Body {n},{1 + n % 3}" for n in rows]
        for name, kept in (("reviews.csv", lines), ("reviews-2.csv", lines[3:])):
            (folder / name).write_text("\n".join([head, *kept, ""]))
        garments(folder / "garments")
        (folder / "shared").mkdir()
        ours = ("LOCKSTEP_PROJECT", "LOCKSTEP_DATA", "LOCKSTEP_RUNS", "PYTHONPATH")
        kept_variables = {k: v for k, v in plain_environment().items() if k not in ours}
        path = f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "LOCKSTEP_PROJECT": "project", "LOCKSTEP_TRACK": "off"}
        self.variables = kept_variables | own | variables

    def _begin_project(self) -> None:
        project, examples = self.folder / "project", ENGINE / "examples"
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(examples / "models" / "digits", project / "models" / "digits")
        for name in ("__init__.py", "models/__init__.py", "data/digits.yaml"):
            (project / name).parent.mkdir(exist_ok=True)
            shutil.copy(examples / name, project / name)

    def _link_environment(self) -> None:
        """Have ./workbench find this environment as its own, so that it installs nothing."""
        own, here = self.folder / ".venv", Path(sys.prefix)
        own.mkdir()
        for path in here.iterdir():
            if path.name in ("bin", "lib", "lib64", "include", "share"):
                (own / path.name).symlink_to(path)
        shutil.copy(here / "pyvenv.cfg", own)
        shutil.copy(self.folder / "Pipfile.lock", own)
        stamp = here / "stamp"
        torch = stamp.read_text().split()[-1] if stamp.exists() else "cpu"
        (own / "stamp").write_text(f"{self.folder}\n{torch}\n")

    def run(self, page: Path, *marks: str) -> None:
        """Run the blocks of a page that have one of the marks, and write the page's files.

        Runs stay for the next page, changes of the project do not.
        """
        with ExitStack() as served:
            served.callback(self._begin_project)
            ports: dict[str, str] = {}
            for block in blocks(page):
                kind = block.mark.partition(", ")[0]
                if block.mark.startswith("file "):
                    path = self.folder / block.mark.removeprefix("file ")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(block.text)
                elif kind in marks and block.port:
                    ports[block.port] = _free_port()
                    served.enter_context(self._serving(_at(ports, block), ports[block.port]))
                elif kind in marks:
                    self.give(_at(ports, block))

    def give(self, words: list[str]) -> str:
        """Run a command to its end; its output. It must succeed."""
        done = subprocess.run(
            words, cwd=self.folder, env=self.variables, capture_output=True, text=True
        )
        assert done.returncode == 0, (words[-1], done.stdout, done.stderr)
        return done.stdout

    @contextmanager
    def _serving(self, words: list[str], port: str) -> Iterator[None]:
        log = self.folder / "served.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.variables, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        try:
            while not _listens(port):
                assert process.poll() is None, (words[-1], log.read_text())
                time.sleep(0.1)
            yield
            assert process.poll() is None, (words[-1], log.read_text())
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _at(ports: dict[str, str], block: Block) -> list[str]:
    """The command of a block, with the ports of this test in place of the page's."""
    text = block.text
    for named, free in ports.items():
        text = re.sub(rf"(?<=[: ]){named}\b", free, text)
    return ["sh", "-ec", text] if block.language == "sh" else ["python", "-c", text]


def _free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def _listens(port: str) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which nothing was trained."""
    return Clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone after the first command of the README, which all slow blocks share."""
    with advisories({("jinja2", "2.4.1"): CANARY}) as (address, _):
        clone = Clone(tmp_path_factory.mktemp("trained"), LOCKSTEP_ADVISORIES=address)
        clone.give(["./workbench", "train", "--seed", "42"])
        yield clone


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _with(mark: str) -> list[Path]:
    """The pages that have a block with this mark."""
    return [page for page in PAGES if any(b.mark.partition(", ")[0] == mark for b in blocks(page))]


@pytest.mark.parametrize("page", _with("run"), ids=_named)
def test_the_quick_commands_of_a_page_run(page: Path, clone: Clone) -> None:
    clone.run(page, "run")


@pytest.mark.slow
@pytest.mark.parametrize("page", _with("run slow"), ids=_named)
def test_all_commands_of_a_page_run_one_after_the_other(page: Path, trained: Clone) -> None:
    trained.run(page, "run", "run slow")


@pytest.mark.slow
@pytest.mark.skipif(not OURS, reason="the README is the team's own")
def test_the_first_command_gives_the_digest_and_the_accuracy_that_the_readme_prints(
    trained: Clone,
) -> None:
    (path,) = trained.folder.glob("runs/digits-base-s42-*/receipt.json")
    results = json.loads(path.read_bytes())["results"]
    accuracy = f"{results['metrics']['test']['accuracy']:.4f}"
    printed = README.read_text()
    assert f"weights sha256 {results['weights_sha256']}" in printed
    assert f"test accuracy {accuracy}" in printed


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_each_block_says_how_it_is_run(page: Path) -> None:
    known = re.compile(
        r"run|run slow|run slow, serving at \d+|file [\w./-]+|run by lockstep/tests/[\w/.]+"
        r"|not run: needs (" + "|".join(map(re.escape, NEEDS)) + r")(; .*)?"
    )
    found = blocks(page)
    assert [b.text for b in found if not b.language] == []
    commands = [b for b in found if b.language in ("sh", "python")]
    assert [b.text for b in commands if not known.fullmatch(b.mark)] == []
    assert _COMMAND.findall(_FENCE.sub("", page.read_text())) == []  # nor is one hidden elsewhere


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_every_link_and_every_test_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [name for name in links if not (page.parent / name).exists()] == []
    for name, test in re.findall(r"`(lockstep/tests/[\w/.]+)(?:::(\w+))?`", text):
        assert (ROOT / name).exists(), name
        if test:
            assert re.search(rf"^def {test}", (ROOT / name).read_text(), re.MULTILINE), test


@pytest.mark.skipif(not OURS, reason="the README is the team's own")
def test_the_two_commands_stand_on_top_of_the_readme() -> None:
    top = "\n".join(README.read_text().splitlines()[:16])
    expected = ("./workbench train --seed 42", "./workbench test")
    assert [command in top for command in expected] == [True, True]


def test_the_index_lists_each_page_once() -> None:
    index = (ENGINE / "docs" / "README.md").read_text()
    listed = re.findall(r"^- .*?\]\(([\w.-]+\.md)\)", index, re.MULTILINE)
    pages = {path.name for path in (ENGINE / "docs").glob("*.md")} - {"README.md"}
    assert sorted(listed) == sorted(pages)


def test_the_architecture_page_names_each_file_of_the_engine_and_no_other() -> None:
    (tree,) = (
        b.text
        for b in blocks(ENGINE / "docs" / "architecture.md")
        if b.text.startswith("lockstep/")
    )
    named, silent, folders = [], [], list[str]()
    for line in tree.splitlines():
        name, _, phrase = line.strip().partition(" ")
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        silent += [] if phrase.strip() else [name]
        if name.endswith("/"):
            folders.append(name)
        else:
            named.append("".join([*folders, name]))
    # A model's folder is one line; what a package's __init__.py says is the line of its folder.
    files = {
        path.relative_to(ROOT).as_posix()
        for path in ENGINE.rglob("*.py")
        if not {"tests", "models", "networks"} & {*path.relative_to(ENGINE).parts[:-1]}
        and path.name != "__init__.py"
    }
    modules = [name for name in named if name.endswith(".py")]
    unnamed, unknown = files - set(modules), set(modules) - files
    assert (sorted(unnamed), sorted(unknown), silent) == ([], [], [])
    assert len(modules) == len(set(modules))


def test_the_page_on_models_names_what_the_contract_page_offers() -> None:
    contract = ast.parse((ENGINE / "model.py").read_text())
    (offered,) = (
        ast.literal_eval(node.value)
        for node in contract.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    page = (ENGINE / "docs" / "models.md").read_text()
    assert [name for name in offered if not re.search(rf"\b{name}\b", page)] == []
