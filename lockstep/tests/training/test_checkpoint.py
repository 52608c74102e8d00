"""Checkpoints are whole or not there, and verified when read."""

import errno
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lockstep.ground.errors import CheckpointError, WriteError
from lockstep.training.checkpoint import Checkpoints, Snapshot


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"values": torch.full((100,), float(step))}, {"progress": {"step": step}})


def saved(folder: Path, *steps: int, keep: int = 2, best: int | None = None) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep, lambda _: None)
    for step in steps:
        checkpoints.save(snapshot(step), best=best, flush=lambda: None)
    checkpoints.wait()
    return checkpoints


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    found = saved(tmp_path / "c", 5).newest()
    assert found
    assert (found.step, found.state) == (5, {"progress": {"step": 5}})
    assert torch.equal(found.tensors["values"], snapshot(5).tensors["values"])


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "c", 1, 2, 3, 4, 5, best=2)
    assert sorted(checkpoints.steps()) == [2, 4, 5]
    assert [str((tmp_path / "c" / name).readlink()) for name in ("latest", "best")] == [
        "00000005",
        "00000002",
    ]


def test_the_same_state_has_the_same_bytes(tmp_path: Path) -> None:
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "00000003").iterdir()}
        for name in ("a", "b")
        if saved(tmp_path / name, 3)
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_flipped_byte_anywhere_is_noticed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c" / "00000002" / name
    saved(tmp_path / "c", 1, 2)
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError):
            Checkpoints(tmp_path / "c", 2, lambda _: None).read(2)
    path.write_bytes(content)
    assert Checkpoints(tmp_path / "c", 2, lambda _: None).read(2).step == 2


def test_the_one_before_a_damaged_one_is_used_with_a_warning(tmp_path: Path) -> None:
    saved(tmp_path / "c", 1, 2)
    (tmp_path / "c" / "00000002" / "tensors.safetensors").write_bytes(b"torn")
    lines: list[str] = []
    newest = Checkpoints(tmp_path / "c", 2, lines.append).newest()
    assert newest
    assert (newest.step, len(lines)) == (1, 1)
    assert "00000002/tensors.safetensors: found sha256" in lines[0]
    assert lines[0].endswith("Training continues from step 1, to the same result.")


def test_a_damaged_one_stays_until_another_is_saved(tmp_path: Path) -> None:
    """What cannot be read may be well tomorrow, as on a network file system that has a bad day."""
    path = tmp_path / "c" / "00000003" / "tensors.safetensors"
    saved(tmp_path / "c", 1, 2, 3)
    away = path.rename(tmp_path / "away")
    newest = Checkpoints(tmp_path / "c", 2, lambda _: None).newest()
    assert newest and newest.step == 2
    away.rename(path)
    newest = Checkpoints(tmp_path / "c", 2, lambda _: None).newest()
    assert newest and newest.step == 3


@pytest.mark.parametrize("keep", [1, 2])
def test_the_one_just_saved_is_kept_beside_a_newer_one_that_is_of_no_use(
    tmp_path: Path, keep: int
) -> None:
    saved(tmp_path / "c", 8, 9)
    assert saved(tmp_path / "c", 3, keep=keep).steps() == [3]


def test_a_checkpoint_is_replaced_without_a_moment_in_which_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each rename in turn: a checkpoint of that step is there, the old or the new one."""
    real, steps = os.rename, []
    for killed_at in range(3):
        saved(folder := tmp_path / str(killed_at), 5, keep=1)
        calls = 0

        def limited(*paths: Any, limit: int = killed_at) -> None:
            nonlocal calls
            calls += 1
            if calls > limit:
                raise KeyboardInterrupt
            real(*paths)

        monkeypatch.setattr(os, "rename", limited)
        checkpoints = Checkpoints(folder, 1, lambda _: None)
        checkpoints.save(snapshot(5), best=None, flush=lambda: None)
        with pytest.raises(KeyboardInterrupt) if killed_at < 2 else nullcontext():
            checkpoints.wait()
        monkeypatch.setattr(os, "rename", real)
        newest = Checkpoints(folder, 1, pytest.fail).newest()
        steps.append(newest and newest.step)
    assert (steps, calls) == ([5, 5, 5], 2)


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / "c" / ".00000009.part").mkdir(parents=True)
    (tmp_path / "c" / ".00000009.part" / "tensors.safetensors").write_bytes(b"half")
    saved(tmp_path / "c", 10)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["00000010", "latest"]


def test_numbers_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "c", 1)
    bad = Snapshot(2, {"values": torch.tensor([1.0, float("nan")])}, {"progress": {}})
    checkpoints.save(bad, best=None, flush=lambda: None)
    with pytest.raises(CheckpointError, match="step 2: values is not finite"):
        checkpoints.wait()
    assert checkpoints.steps() == [1]


@pytest.mark.parametrize("call", ["fsync", "rename", "replace", "open"])
def test_a_write_that_fails_anywhere_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Every call that can fail is made to fail, one after the other, as on a full disk."""
    real, failing_at = getattr(os, call), 0
    while True:
        folder = tmp_path / f"c{failing_at}"
        checkpoints, calls = saved(folder, 1), 0

        def limited(*arguments: Any, limit: int = failing_at + 1, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == limit:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **named)

        monkeypatch.setattr(os, call, limited)
        checkpoints.save(snapshot(2), best=None, flush=lambda: None)
        try:
            checkpoints.wait()
            failed = False
        except WriteError as error:
            failed = True
            assert "no space left" in str(error)
        monkeypatch.setattr(os, call, real)
        newest = Checkpoints(folder, 2, lambda _: None).newest()
        assert newest
        assert newest.step in ((1, 2) if failed else (2,))
        assert not list(folder.glob(".*.part"))
        if not failed:
            assert failing_at > 0, f"{call} is never called"
            return
        failing_at += 1


def test_a_second_write_waits_for_the_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", 9, lambda _: None)
    order: list[int] = []
    for step in (1, 2, 3):
        checkpoints.save(snapshot(step), best=None, flush=partial(order.append, step))
    checkpoints.close()
    assert (order, sorted(checkpoints.steps())) == ([1, 2, 3], [1, 2, 3])
