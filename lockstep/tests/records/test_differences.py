"""Two runs side by side: settings, source file by file, metrics; only what differs."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.errors import RunError
from lockstep.records import source
from lockstep.records.differences import FileDifference, differences
from lockstep.records.run import Run
from lockstep.records.verify import verify


def with_source(run: Run, folder: Path, changes: dict[str, bytes | None]) -> Run:
    """A copy of a run whose archive has other files that decide no bit, as if made so."""
    copy = Run(shutil.copytree(run.folder, folder / run.name, symlinks=True))
    files: dict[str, Any] = source.unpacked(copy.folder / "source.zip") | changes
    kept = {name: content for name, content in files.items() if content is not None}
    (copy.folder / "source.zip").write_bytes(source.archive(kept))
    receipt: Any = copy.receipt
    del receipt["digest"]
    receipt["results"]["source_sha256"] = digest_of(copy.folder / "source.zip")
    receipt["results"]["metrics"]["test"]["accuracy"] = 0.5
    receipt["digest"] = digest_of(canonical_json(receipt))
    (copy.folder / "receipt.json").write_bytes(readable_json(receipt))
    assert verify(copy) == []
    return copy


def test_a_run_differs_in_nothing_from_itself(finished_run: Run) -> None:
    found = differences(finished_run, finished_run)
    assert (found.facts, found.files, found.metrics, found.patch) == ([], [], [], "")


def test_source_is_told_file_by_file_and_the_patch_leads_from_one_to_the_other(
    finished_run: Run, tmp_path: Path
) -> None:
    name = "lockstep/workspace/doctor.py"
    text = source.unpacked(finished_run.folder / "source.zip")[name]
    lines = text.split(b"\n")
    changed = b"\n".join([*lines[:3], b"# a form feed\x0c is no end", b"# one", *lines[4:]])[:-1]
    changes = {
        name: changed,
        "lockstep/workspace/parity.py": None,
        "project/new.py": b"first\nsecond",
    }
    other = with_source(finished_run, tmp_path, changes)
    found = differences(finished_run, other)
    gone = source.unpacked(finished_run.folder / "source.zip")["lockstep/workspace/parity.py"]
    assert found.files == [
        FileDifference(name, "changed", 3, 2, False),
        FileDifference("lockstep/workspace/parity.py", "only in A", 0, gone.count(b"\n"), False),
        FileDifference("project/new.py", "only in B", 2, 0, False),
    ]
    assert [(one.name, one.b) for one in found.metrics] == [("test.accuracy", 0.5)]

    trees = [tmp_path / "a", tmp_path / "b"]
    for run, tree in zip((finished_run, other), trees, strict=True):
        shutil.unpack_archive(run.folder / "source.zip", tree)
    subprocess.run(["git", "apply", "-"], input=found.patch.encode(), cwd=trees[0], check=True)
    contents = [
        {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*.py")}
        for tree in trees
    ]
    assert contents[0] == contents[1]


def test_settings_are_told_whole_also_those_that_decide_no_bit(
    finished_run: Run, tmp_path: Path
) -> None:
    copy = Run(shutil.copytree(finished_run.folder, tmp_path / "copy", symlinks=True))
    path = copy.folder / "experiment.yaml"
    path.write_text(path.read_text().replace("loaders: 0", "loaders: 3"))
    (row,) = differences(finished_run, copy).facts
    assert (row.part, row.name, row.a, row.b) == ("setting", "training.loaders", "0", "3")


def test_a_run_that_is_not_finished_is_shown_without_metrics(
    finished_run: Run, tmp_path: Path
) -> None:
    copy = Run(shutil.copytree(finished_run.folder, tmp_path / "copy", symlinks=True))
    (copy.folder / "receipt.json").unlink()
    found = {one.name: (one.a, one.b) for one in differences(copy, finished_run).metrics}
    assert finished_run.receipt
    accuracy = finished_run.receipt["results"]["metrics"]["test"]["accuracy"]
    assert found["test.accuracy"] == (None, accuracy)


def test_a_run_that_was_altered_is_refused(finished_run: Run, tmp_path: Path) -> None:
    copy = Run(shutil.copytree(finished_run.folder, tmp_path / "copy", symlinks=True))
    (copy.folder / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match=r"was altered: metrics\.jsonl: sha256"):
        differences(finished_run, copy)
