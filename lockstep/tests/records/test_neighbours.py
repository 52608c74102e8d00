"""What stands beside runs in their folder ends no command: it is left out, or listed as altered."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.ground.errors import RunError
from lockstep.records.run import Run, find_run, runs
from lockstep.tests.conftest import Call, mostly_slow
from lockstep.tracking.export import export
from lockstep.tracking.follower import marks

Make = Callable[[Path], object]
DEEP = "[" * 100_000


def file(content: bytes = b"") -> Make:
    return lambda path: path.write_bytes(content)


def link(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def folder(*names: str) -> Make:
    return lambda path: [(path / name).mkdir(parents=True) for name in ("", *names)[bool(names) :]]


def listening(path: Path) -> None:
    """Make a socket."""
    before = Path.cwd()
    os.chdir(path.parent)  # its address may not be long
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


def sparse(path: Path) -> None:
    """Make a file of a terabyte that takes no space."""
    with path.open("wb") as made:
        made.truncate(1 << 40)


# What is no run at all, by the name that it has.
STRANGERS: dict[str, tuple[str | bytes, Make]] = {
    "a file": ("notes.txt", file(b"remember")),
    "an empty file": ("digits-base-s42", file()),
    "what macOS leaves": (".DS_Store", file(b"\0\0\0\1Bud1")),
    "what Windows leaves": ("Thumbs.db", file(b"\xd0\xcf")),
    "a dangling link": ("digits-latest", link("gone")),
    "a loop of links": ("digits-loop", link("digits-loop")),
    "a link to the folder itself": ("here", link(".")),
    "a folder without files": ("digits-base-s1-00000000", folder()),
    "a folder of folders": ("digits-base-s2-00000000", folder("checkpoints/00000003", "a/b/c")),
    "a hidden run": (".digits-base-s42-00000000.part", folder("checkpoints")),
    "a FIFO": ("fifo", os.mkfifo),
    "a socket": ("socket", listening),
    "a name that is not UTF-8": (b"caf\xe9", folder()),
    "a file whose name is not UTF-8": (b"\xff\xfe.txt", file()),
    "a name with a newline": ("digits\nbase", folder()),
    "a very long name": ("d" * 255, folder()),
    "an archive": ("digits-base-s42.tar.gz", file(b"\x1f\x8b")),
}

# What a run's folder has in the place of one of its files.
ODD: dict[str, Make] = {
    "a list": file(b"[]"),
    "an empty file": file(),
    "a number": file(b"3"),
    "null": file(b"null"),
    "no text": file(b"\x89PNG\r\n\x1a\n\0\xff"),
    "a half": file(b'{"digest": "'),
    "deep nesting": file(DEEP.encode()),
    "a number that is none": file(b'{"digest": NaN}'),
    "a terabyte": sparse,
    "a folder": folder(),
    "a FIFO": os.mkfifo,
    "a socket": listening,
    "a loop of links": lambda path: path.symlink_to(path.name),
}
FILES = ("identity.json", "parts.json", "experiment.yaml", "receipt.json")


def odd(name: str, make: Make) -> Make:
    """A copy of a run, in which a file was replaced."""

    def change(path: Path) -> None:
        (path / name).unlink()
        make(path / name)

    return change


def cut(path: Path) -> None:
    """Leave a half of each file, as a copy that goes on does."""
    for one in path.iterdir():
        if one.is_file():
            one.write_bytes(one.read_bytes()[: one.stat().st_size // 2])


def without(*names: str) -> Make:
    return lambda path: [(path / name).unlink() for name in names]


# What a copy of a run can have become.
CHANGED: dict[str, tuple[str | bytes, Make]] = {
    f"{name} is {what}": ("copy", odd(name, make)) for name in FILES for what, make in ODD.items()
}
CHANGED |= {f"{name} is missing": ("copy", without(name)) for name in FILES}
CHANGED |= {
    "a half-copied run": ("copy", cut),
    "only its first file was copied": ("copy", without(*FILES[1:])),
    "its name is not UTF-8": (b"caf\xe9", lambda _: None),
    "its name has a newline": ("digits\nerror: all is lost", lambda _: None),
    "its name has an escape": ("digits\x1b[2J", lambda _: None),
    "its report is a FIFO": ("copy", odd("report.html", os.mkfifo)),
    "its metrics are a FIFO": ("copy", odd("metrics.jsonl", os.mkfifo)),
    "its trace is a FIFO": ("copy", odd("trace.bin", os.mkfifo)),
    "its source is a FIFO": ("copy", odd("source.zip", os.mkfifo)),
    "its weights are a folder": ("copy", odd("weights.safetensors", folder())),
    "it cannot be read": ("copy", lambda path: path.chmod(0)),
}


@pytest.fixture
def run(finished_run: Run, tmp_path: Path) -> Run:
    """A run alone in its folder."""
    place = tmp_path / "runs" / finished_run.name
    return Run(shutil.copytree(finished_run.folder, place, symlinks=True))


def refuse_to_end(call: Call, run: Run, odd_one: Path) -> list[str]:
    """Do all that looks over a folder of runs; return the states of what is listed beside."""
    place = run.folder.parent
    where = ("--runs", str(place))
    code, out, err = call("runs", *where)
    assert (code, err) == (0, ""), err
    lines = json.loads(call("runs", *where, "--json")[1])
    assert len(out.splitlines()) == 1 + len(lines)
    assert out.encode().isascii()
    assert [line["run"] for line in lines if line["run"] == run.name] == [run.name]
    chosen = json.loads(
        call("runs", *where, "--json", "--where", "test.accuracy>0", "--sort", "training.lr")[1]
    )
    assert run.name in [line["run"] for line in chosen]
    assert find_run("digits-base-s42", place).folder == run.folder
    assert run.name in marks(place)
    for one in runs(place):
        try:
            export(one)
        except RunError as error:
            assert str(error).count("\n") == 0
    assert call("diff", run.name, run.name, *where)[0] == 0
    code, _, err = call("diff", run.name, str(odd_one), *where)
    assert (code in (0, 2), err.count("\n") <= 1) == (True, True), err
    return [line["state"] for line in lines if line["run"] != run.name]


@pytest.mark.parametrize("kind", mostly_slow([*STRANGERS], quick=2))
def test_what_is_no_run_is_left_out(call: Call, run: Run, kind: str) -> None:
    name, make = STRANGERS[kind]
    path = run.folder.parent / os.fsdecode(name)
    make(path)
    assert refuse_to_end(call, run, path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*CHANGED])
def test_a_run_that_became_odd_is_left_out_or_listed_as_what_it_is(
    call: Call, run: Run, kind: str
) -> None:
    name, change = CHANGED[kind]
    path = run.folder.parent / os.fsdecode(name)
    shutil.copytree(run.folder, path, symlinks=True)
    os.utime(path, (0, 0))
    change(path)
    try:
        states = refuse_to_end(call, run, path)
    finally:
        path.chmod(0o755)
    assert len(states) <= 1
    if any(kind.startswith(file) for file in FILES) and "missing" not in kind and states:
        assert states == ["altered"], kind
