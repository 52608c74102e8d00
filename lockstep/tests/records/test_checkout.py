"""A run checked out: its source, its recipe and itself in a new folder that works alone."""

import os
import shutil
from pathlib import Path

import pytest

from lockstep.ground.errors import RunError
from lockstep.records import source
from lockstep.records.checkout import checkout
from lockstep.records.run import Run


def files(folder: Path) -> dict[str, bytes]:
    """Path to content of all files below a folder."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()}


def test_source_and_run_are_there_as_they_were(finished_run: Run, tmp_path: Path) -> None:
    copy = checkout(finished_run, tmp_path / "out" / "here")
    assert copy == tmp_path / "out" / "here" / "runs" / finished_run.name
    found, run = files(tmp_path / "out" / "here"), files(finished_run.folder)
    kept = {name: content for name, content in run.items() if "/" not in name}
    wanted = source.unpacked(finished_run.folder / "source.zip")
    wanted |= {f"runs/{finished_run.name}/{name}": content for name, content in kept.items()}
    assert {"weights.safetensors", "receipt.json", "preprocess.json"} < kept.keys()
    assert found.keys() - wanted.keys() == {
        "Pipfile.lock",
        "lockstep/examples/models/digits/recipes/base.yaml",
    }
    assert {name: found[name] for name in wanted} == wanted


def test_a_folder_that_is_empty_is_used_and_one_that_is_not_is_left_alone(
    finished_run: Run, tmp_path: Path
) -> None:
    checkout(finished_run, tmp_path / ".")
    before = files(tmp_path)
    for folder in (tmp_path, tmp_path / "Pipfile.lock"):
        with pytest.raises(RunError, match="exists and is not empty, expected a new folder"):
            checkout(finished_run, folder)
    assert files(tmp_path) == before


def test_a_run_that_was_altered_or_is_not_finished_is_refused_and_leaves_nothing(
    finished_run: Run, tmp_path: Path
) -> None:
    for name, told in (
        ("source.zip", "was altered: source.zip"),
        ("receipt.json", "expected a finished"),
    ):
        copy = Run(shutil.copytree(finished_run.folder, tmp_path / name / "run", symlinks=True))
        path = copy.folder / name
        path.unlink() if name == "receipt.json" else os.truncate(path, 1000)
        with pytest.raises(RunError, match=told):
            checkout(copy, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["receipt.json", "source.zip"]
