"""A name is a promise: what it stands for is on the disk before it, and then the name itself."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lockstep.ground.files import publish_folder, write_atomically, write_flushed
from lockstep.records.run import Run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flushes and renames that this process makes, as "flush NAME" and "name NAME"."""
    made: list[str] = []

    def noted(call: str, note: Callable[..., str]) -> None:
        real = getattr(os, call)

        def with_note(*arguments: Any) -> Any:
            made.append(note(*arguments))
            return real(*arguments)

        monkeypatch.setattr(os, call, with_note)

    noted("fsync", lambda handle: f"flush {Path(f'/proc/self/fd/{handle}').readlink().name}")
    noted("replace", lambda _, to: f"name {Path(to).name}")
    noted("rename", lambda _, to: f"name {Path(to).name}")
    return made


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(
    tmp_path: Path, calls: list[str]
) -> None:
    write_atomically(tmp_path / "receipt.json", b"{}")
    assert calls == ["flush .receipt.json.part", "name receipt.json", f"flush {tmp_path.name}"]


def test_a_folder_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(
    tmp_path: Path, calls: list[str]
) -> None:
    publish_folder(tmp_path / "run", lambda part: write_flushed(part / "a", b"1"))
    assert calls == ["flush a", "flush .run.part", "name run", f"flush {tmp_path.name}"]


def test_what_a_checkpoint_relies_on_is_on_the_disk_before_it(
    train_briefly: Callable[..., Run], calls: list[str]
) -> None:
    train_briefly()
    relied: list[set[str]] = [set()]
    for call in calls:
        relied[-1].add(call)
        if call.startswith("name 000"):
            relied.append(set())
    checkpoints = relied[:-1]
    assert checkpoints
    assert [{"flush trace.bin", "flush metrics.jsonl"} <= made for made in checkpoints] == [
        True for _ in checkpoints
    ]
