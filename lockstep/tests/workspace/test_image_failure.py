"""What a failed build of an image shows, with a `docker` that prints what BuildKit prints."""

import re
from pathlib import Path

import pytest

from lockstep.ground.errors import ContainerError
from lockstep.ground.watch import Watch
from lockstep.workspace.containers import build

SET_UP = "#9 41.2 workbench: install: exit code 1 (no wheel); try again"
INSIDE = "; the whole log is /workspace/.venv/setup.log"


class Lines(Watch):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said += line.splitlines()


@pytest.mark.parametrize("last", [SET_UP + INSIDE, "#9 2.0 gcc: not\x1b[2J found"])
def test_a_failed_build_shows_its_last_lines_and_a_log_that_exists(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = "\n".join([*(f"#8 0.{number} early" for number in range(30)), last])
    (tmp_path / "printed").write_text(f"{printed}\n")
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\n[ $1 = build ] || exit 0\ncat {tmp_path}/printed\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    watch = Lines()
    with pytest.raises(ContainerError) as failed:
        build("train", "cpu", watch)
    text = re.sub(r"^#9 [\d.]+ ", "", last).removesuffix(INSIDE).replace("\x1b", "")
    assert watch.said[0] == "  early"
    assert re.sub(r"[^ -~]|\\x1b", "", watch.said[-1]) == f"  {text}"
    assert len(watch.said) == 12
    assert "setup.log" not in f"{failed.value}{watch.said}"
    named = re.findall(r"The log: (\S+)", str(failed.value))
    assert [Path(path).read_text() for path in named] == [f"{printed}\n"]
