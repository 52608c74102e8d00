"""Deleted runs: in no list, brought back as they were, gone for good only by a purge."""

import os
import shutil
from pathlib import Path

import pytest

from lockstep.ground.errors import RunError
from lockstep.ground.files import held
from lockstep.records import trash
from lockstep.records.run import Run, runs


@pytest.fixture
def folder(finished_run: Run, tmp_path: Path) -> Path:
    """A folder of two runs, first and second."""
    for name in ("first", "second"):
        shutil.copytree(finished_run.folder, tmp_path / name, symlinks=True)
    os.utime(tmp_path / "first", (1, 1))
    return tmp_path


def names(found: list[Run]) -> list[str]:
    return [run.name for run in found]


def contents(folder: Path) -> dict[Path, bytes | int]:
    """What is in a folder: bytes of files, time of the folder itself."""
    found = {path.relative_to(folder): path for path in folder.rglob("*")}
    plain = {name: path.read_bytes() for name, path in found.items() if path.is_file()}
    return plain | {Path(): folder.stat().st_mtime_ns}


def test_a_deleted_run_is_in_no_list_and_is_restored_as_it_was(folder: Path) -> None:
    before = contents(folder / "first")
    assert trash.delete(Run(folder / "first")) == folder / ".trash" / "first"
    assert (names(runs(folder)), names(trash.trashed([], folder))) == (["second"], ["first"])
    ways = ("fir", "first", str(folder / ".trash" / "first"))
    assert [names(trash.trashed([way], folder)) for way in ways] == [["first"]] * 3
    (run,) = trash.trashed(["fir"], folder)
    assert trash.restore(run) == folder / "first"
    assert names(runs(folder)) == ["second", "first"]
    assert (contents(folder / "first"), trash.trashed([], folder)) == (before, [])


def test_a_name_that_the_trash_has_already_gets_a_number_and_loses_it_again(folder: Path) -> None:
    for wanted in ("first", "first~2", "first~3"):
        assert trash.delete(Run(folder / "first")).name == wanted
        shutil.copytree(folder / "second", folder / "first", symlinks=True)
    shutil.rmtree(folder / "first")
    (run,) = trash.trashed(["first~2"], folder)
    assert trash.restore(run) == folder / "first"
    (run,) = trash.trashed(["first~3"], folder)
    with pytest.raises(RunError, match=r"first~3: cannot be restored, .*/first is there again"):
        trash.restore(run)
    assert sorted(names(trash.trashed([], folder))) == ["first", "first~3"]


def test_a_run_that_is_running_stays(folder: Path) -> None:
    run = Run(folder / "first")
    with held(run.folder, print), pytest.raises(RunError, match="first: is running; stop it"):
        trash.delete(run)
    assert names(runs(folder)) == ["second", "first"]


def test_a_purge_removes_what_is_named_or_all_and_what_a_killed_one_had_left(folder: Path) -> None:
    for name in ("first", "second"):
        trash.delete(Run(folder / name))
    (folder / ".trash" / ".first.part" / "left").mkdir(parents=True)
    trash.purge(trash.trashed(["first"], folder), folder)
    assert [path.name for path in (folder / ".trash").iterdir()] == ["second"]
    trash.purge(trash.trashed([], folder), folder)
    assert list((folder / ".trash").iterdir()) == []


def test_what_is_not_in_the_trash_is_neither_restored_nor_purged(folder: Path) -> None:
    trash.delete(Run(folder / "second"))
    for given in ("first", str(folder / "first")):
        with pytest.raises(RunError, match=r"first: found 0 such runs in .*\.trash, expected one"):
            trash.trashed([given], folder)
    with pytest.raises(RunError, match="second: is in the trash"):
        trash.delete(Run(folder / ".trash" / "second"))
    assert (names(runs(folder)), names(trash.trashed([], folder))) == (["first"], ["second"])
