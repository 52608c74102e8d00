"""Metrics and trace of a run: the same bytes however often it was resumed."""

from pathlib import Path

import numpy as np

from lockstep.ground.errors import RunError
from lockstep.ground.watch import Row
from lockstep.records.journal import Journal
from lockstep.records.trace import Trace


def row(step: int) -> Row:
    return {
        "epoch": step // 4,
        "step": step,
        "better": True,
        "rate": 0.1,
        "train": {"loss": 1 / step},
        "validation": {"loss": 2 / step},
    }


def written(path: Path, *steps: int, after: int = 0) -> str:
    journal = Journal(path, after)
    for step in steps:
        journal.append(row(step))
    journal.close()
    return journal.digest()


def test_going_on_gives_the_bytes_of_one_that_never_stopped(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", 4, 8, 12, 16)
    written(tmp_path / "stopped", 4, 8, 12)
    assert written(tmp_path / "stopped", 12, 16, after=8) == whole
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, 4, 8)
    two = path.read_bytes()
    path.write_bytes(two + two[:7])
    written(path, after=8)
    assert path.read_bytes() == two


def test_any_flipped_byte_is_refused_or_shows_in_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    wanted = written(path, 4, 8)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert written(path, after=8) != wanted
        except RunError as error:
            assert f"{path}: line" in str(error)
    path.write_bytes(b"not a line of metrics\n")
    assert written(path, 4, 8) == wanted


def traced(path: Path, *steps: int, after: int = 0) -> str:
    trace, values = Trace(path, after), np.ones(3, np.float32)
    for step in steps:
        trace.append(step, step, 1 / step, values * step, [values / np.float32(step)])
    trace.close()
    return trace.digest()


def test_a_trace_that_resumes_has_the_bytes_of_one_that_never_stopped(tmp_path: Path) -> None:
    whole = traced(tmp_path / "whole", 1, 2, 3, 4)
    traced(tmp_path / "stopped", 1, 2, 3)
    assert traced(tmp_path / "stopped", 3, 4, after=2) == whole
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()
