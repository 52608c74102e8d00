"""A save that is refused, or killed, at each of its calls to the operating system in turn.

strace makes them fail for real: the first write, the second write, the first fsync and so on.
"""

import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from lockstep.benchmarks import faults
from lockstep.tests.faults.saving import save, save_when_told, snapshot
from lockstep.training.checkpoint import Checkpoints

pytestmark = pytest.mark.slow  # each system call of a save is failed

# The calls by which a save changes something on the disk, and those that open what it changes.
CALLS = ("openat", "write", "fsync", "mkdir", "rename", "symlink", "unlink", "unlinkat", "rmdir")

needs_strace = pytest.mark.skipif(
    not shutil.which("strace") and "LOCKSTEP_CI" not in os.environ,
    reason="strace is not installed; in CI it is",
)


def saved_under(fault: str, folder: Path) -> tuple[int, str]:
    """Save 1 and 2, and 3 with a fault: the exit code of that process, and what the fault met."""
    here, there = multiprocessing.Pipe()
    with here, there:
        process = faults.forked(save_when_told, folder, there)
        assert here.recv() == "ready"
        call = fault.partition(":")[0]
        inject = ["-e", f"trace={call}", "-e", f"inject={fault}"]
        words = ["strace", "-f", *inject, "-p", str(process.pid)]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr
            attached = tracer.stderr.readline()
            here.send("go")
            process.join()
            lines = tracer.stderr.readlines()
    assert "attached" in attached, attached
    assert process.exitcode is not None
    return process.exitcode, "".join(x for x in lines if "INJECTED" in x or "by SIGKILL" in x)


@needs_strace
@pytest.mark.parametrize("kind", ["error=EIO", "error=ENOSPC", "error=EROFS", "signal=KILL"])
def test_a_save_interrupted_at_any_call_leaves_the_newest_good_checkpoint(
    tmp_path: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    """Killed or refused in one line; what is read then is whole, and the next save tidies up."""
    met = 0
    for call in CALLS:
        for number in count(1):
            folder = tmp_path / f"{call}-{number}" / "checkpoints"
            folder.parent.mkdir()
            code, what = saved_under(f"{call}:{kind}:when={number}", folder)
            step, names = after(folder)
            if not what:  # there is no such call any more
                assert (code, step) == (0, 3)
                break
            met += 1
            assert (code, step in (2, 3)) == (-9 if "KILL" in kind else 2, True), what
            assert names == [f"{step:08d}", "00000004", "best -> 00000004", "latest -> 00000004"]
    assert met > 20
    record_property("times", met)


def after(folder: Path) -> tuple[int, list[str]]:
    """The step that is read back, checked, and what stands there when one more is saved."""
    checkpoints = Checkpoints(folder, 2, pytest.fail)
    found = checkpoints.newest()
    assert found
    assert found.tensors["values"].equal(snapshot(found.step).tensors["values"])
    links = [folder / "latest", folder / "best"]
    assert {str(link.readlink()) for link in links} == {f"{found.step:08d}"}
    assert sorted(checkpoints.steps()) == [found.step - 1, found.step]
    assert list(folder.glob(".*")) == []
    checkpoints.close()
    save(folder, 4)
    names = [f"{p.name} -> {p.readlink()}" if p.is_symlink() else p.name for p in folder.iterdir()]
    return found.step, sorted(names)
