"""Checkouts as git makes them on Windows: the same files, the same identities."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.records import source
from lockstep.tests.conftest import ROOT, plain_environment

# Table, binary and text by content: known by their digests, so nobody may rewrite a byte of them.
DATA = {"a.csv": b"1,2\r\n3,4\r\n", "a.bin": b"\r\n\0\r\n", "a.safetensors": b"{}\r\n"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone by a git that makes CRLF of every line end that it may."""
    folder = tmp_path_factory.mktemp("windows") / "a clone"
    words = ["clone", "--quiet", "--config", "core.autocrlf=true", str(ROOT), str(folder)]
    subprocess.run(["git", *words], check=True)
    return folder


def run(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = plain_environment() | {"PYTHONPATH": str(clone)}
    return subprocess.run(words, cwd=clone, env=variables, capture_output=True, text=True)


def test_every_file_of_a_clone_that_makes_crlf_is_the_same_to_the_byte(clone: Path) -> None:
    words = ["git", "ls-files", "--eol"]
    listed = subprocess.run(words, cwd=clone, capture_output=True, text=True, check=True).stdout
    assert [line for line in listed.splitlines() if {"w/crlf", "w/mixed"} & {*line.split()}] == []


def test_no_line_end_of_data_is_changed_by_a_commit_or_a_checkout(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a", "-c", "core.autocrlf=true"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / ".gitattributes").write_bytes((ROOT / ".gitattributes").read_bytes())
    (tmp_path / "code.py").write_bytes(b"A = 1\r\n")
    for name, content in DATA.items():
        (tmp_path / name).write_bytes(content)
    git("add", "--all")
    git("commit", "--message", "all")
    for path in [tmp_path / "code.py", *map(tmp_path.joinpath, DATA)]:
        path.unlink()
    git("checkout", ".")
    assert (tmp_path / "code.py").read_bytes() == b"A = 1\n"
    assert {name: (tmp_path / name).read_bytes() for name in DATA} == DATA


def test_line_ends_of_text_are_in_no_identity_and_those_of_other_files_are(tmp_path: Path) -> None:
    text = b'"""A text."""\n\nA = """one\ntwo"""\n'
    files = {"a/code.py": text, "a/words.txt": b"one\ntwo\n", "a/rows.bin": b"\0\n"}
    windows = {name: content.replace(b"\n", b"\r\n") for name, content in files.items()}
    same, other = source.digests(files), source.digests(windows)
    assert [name for name in files if same[name] != other[name]] == ["a/rows.bin"]


@pytest.mark.slow
def test_a_clone_that_makes_crlf_passes_lint_and_trains_the_same_run(
    clone: Path, tmp_path: Path
) -> None:
    python = sys.executable
    notebooks = sorted(str(path.relative_to(clone)) for path in clone.glob("notebooks/*.ipynb"))
    for words in (
        ("-m", "ruff", "check", "--quiet", "."),
        ("-m", "black", "--check", "--quiet", "environment", "project", "tasks.py"),
        ("environment/hooks.py", "notebooks", *notebooks),
    ):
        done = run(clone, python, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    names = []
    for folder in (clone, ROOT):
        runs = tmp_path / folder.name
        words = ("train", "--model", "digits", "--until", "2", "--seed", "1", "--runs", str(runs))
        done = run(folder, python, "-m", "lockstep", *words)
        assert done.returncode == 0, done.stderr
        names.append([path.name for path in runs.iterdir() if path.name[0] != "."])
    assert names[0] == names[1] != []


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_launcher_of_a_clone_that_makes_crlf_starts(clone: Path) -> None:
    venv = clone / ".venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')  # stands for a finished environment
    python.chmod(0o755)
    (venv / "Pipfile.lock").write_bytes((clone / "Pipfile.lock").read_bytes())
    (venv / "stamp").write_text(f"{clone}\ncpu\n")
    done = run(clone, "./workbench", "train")
    assert (done.returncode, done.stdout) == (
        0,
        f"-P -m invoke --search-root {clone} train\n",
    ), done.stderr
