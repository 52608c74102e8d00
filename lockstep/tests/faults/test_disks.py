"""Full, read-only and damaged disks: a clear line, exit code 2, and never a wrong result."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.ground.errors import RunError
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, command

pytestmark = pytest.mark.slow  # disks are mounted

WORDS = (
    "train",
    "digits",
    "--seed=42",
    "training.epochs=2",
    "training.checkpoint_every=2",
    "data.limit=300",
)


def on_a_mount(options: str, folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with a tmpfs of its own mounted on a folder, unseen by anyone else."""
    folder.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o {options} tmpfs '{folder}'"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return subprocess.run(
        ["unshare", *user, "--mount", "sh", "-c", f"{mount} && {script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def training(runs: Path, *more: str) -> str:
    words = [sys.executable, "-m", "lockstep", *WORDS, f"--runs={runs}", *more]
    return " ".join(f"'{word}'" for word in words)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error that was said, which is one line and no traceback."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors), "Traceback" in done.stderr) == (2, 1, False), done.stderr
    return errors[0]


def test_a_read_only_runs_folder_is_told(tmp_path: Path) -> None:
    done = on_a_mount("size=1m,ro", tmp_path / "runs", training(tmp_path / "runs"))
    assert "cannot be written; make it writable or choose another place (--runs DIR)" in one_line(
        done
    )


def test_a_full_runs_folder_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    fill = f"head -c 2M /dev/zero > '{runs}/filler' 2>/dev/null;"
    done = on_a_mount(
        "size=64k", runs, f"{fill} {training(runs)}; code=$?; ls -A '{runs}'; exit $code"
    )
    assert "no space left on the disk" in one_line(done)
    assert done.stdout.split() == ["filler"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            "size=1m,ro",
            "cannot be written; make it writable or choose another place (LOCKSTEP_DATA=DIR)",
        ),
        (
            "size=1m,mode=0",
            "cannot be written; make it writable or choose another place (LOCKSTEP_DATA",
        ),
        ("size=64k", "no space left on the disk"),
    ],
    ids=["read-only", "closed", "full"],
)
def test_a_data_folder_that_cannot_be_filled_is_told_by_the_setting_that_names_it(
    tmp_path: Path, options: str, wanted: str
) -> None:
    data = tmp_path / "data"
    drop = "setpriv --bounding-set=-dac_override,-dac_read_search"  # or root may do all
    done = on_a_mount(
        options,
        data,
        f"LOCKSTEP_DATA='{data}' {drop} {training(tmp_path / 'runs')}; code=$?;"
        f" find '{data}' -type f ! -name digests.json; exit $code",  # remembered before, and whole
    )
    line = one_line(done)
    assert (line.startswith(f"error: {data}/arrays/"), wanted in line) == (True, True), line
    assert (done.stdout, (tmp_path / "runs").exists()) == ("", False)


def test_a_disk_that_fills_in_mid_run_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The third checkpoint does not fit; with more room the same command ends as it should."""
    runs, elsewhere = tmp_path / "runs", tmp_path / "undisturbed"
    stopped = (
        f"{training(runs)}; code=$?; find '{runs}' -name '.*' -type d; ls '{runs}'/*/checkpoints;"
    )
    go_on = f"mount -o remount,size=64m '{runs}'; {training(runs)}"
    done = on_a_mount("size=2800k", runs, f"{stopped} echo code $code; {go_on}")
    assert done.returncode == 0, done.stderr
    assert "the one before stays" in done.stderr and "no space left on the disk" in done.stderr
    assert "code 2" in done.stdout and ".part" not in done.stdout
    assert "resumes at step" in done.stderr
    wanted = command(*WORDS, f"--runs={elsewhere}").stdout.splitlines()[1]
    assert wanted in done.stdout


def test_a_disk_that_becomes_read_only_in_mid_run_is_told_and_costs_one_interval(
    tmp_path: Path,
) -> None:
    """The kernel refuses the next checkpoint; the same command goes on once it is writable."""
    runs, elsewhere = tmp_path / "runs", tmp_path / "undisturbed"
    stopped = f"""
        {training(runs)} & job=$!
        until folder=$(ls -d '{runs}'/*/checkpoints/00000002); do
            kill -0 $job || break; sleep 0.002
        done 2>/dev/null
        folder=${{folder%/*}}
        mount --bind $folder $folder && mount -o remount,bind,ro $folder
        wait $job; echo code $?
        umount $folder; ls -A $folder; {training(runs)}"""
    done = on_a_mount("size=64m", runs, f"{{ {stopped}\n}}")
    assert done.returncode == 0, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert ("code 2" in done.stdout, len(errors), "Traceback" in done.stderr) == (True, 1, False)
    assert "cannot be written; make it writable" in errors[0]
    assert ".part" not in done.stdout and "resumes at step" in done.stderr
    wanted = command(*WORDS, f"--runs={elsewhere}").stdout.splitlines()[1]
    assert wanted in done.stdout


@pytest.fixture
def stopped_run(train_briefly: Callable[..., Run]) -> tuple[Run, Callable[[], Run], bytes]:
    """A run set back to before its receipt, how to go on, and the weights it must end with."""
    run = train_briefly()
    weights = (run.folder / "weights.safetensors").read_bytes()
    for name in ("receipt.json", "weights.safetensors", "report.html", "preprocess.json"):
        (run.folder / name).unlink()
    return run, train_briefly, weights


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_flipped_byte_in_the_newest_checkpoint_costs_only_its_interval(
    stopped_run: tuple[Run, Callable[[], Run], bytes], name: str
) -> None:
    run, go_on, weights = stopped_run
    flip(max(run.folder.glob("checkpoints/0*")) / name)
    assert (go_on().folder / "weights.safetensors").read_bytes() == weights


def test_all_checkpoints_damaged_is_a_new_beginning_with_the_same_end(
    stopped_run: tuple[Run, Callable[[], Run], bytes],
) -> None:
    run, go_on, weights = stopped_run
    for path in run.folder.glob("checkpoints/0*/state.json"):
        flip(path)
    assert (go_on().folder / "weights.safetensors").read_bytes() == weights


@pytest.mark.parametrize("change", ["flipped", "cut", "gone"])
def test_a_damaged_trace_is_made_again(
    stopped_run: tuple[Run, Callable[[], Run], bytes], change: str
) -> None:
    run, go_on, weights = stopped_run
    path = run.folder / "trace.bin"
    content = path.read_bytes()
    if change == "flipped":
        flip(path)
    else:
        path.write_bytes(content[:100]) if change == "cut" else path.unlink()
    again = go_on()
    assert path.read_bytes() == content
    assert (again.folder / "weights.safetensors").read_bytes() == weights


def test_a_torn_last_line_of_metrics_is_written_again(
    stopped_run: tuple[Run, Callable[[], Run], bytes],
) -> None:
    run, go_on, _ = stopped_run
    path = run.folder / "metrics.jsonl"
    content = path.read_bytes()
    flip(max(run.folder.glob("checkpoints/0*")) / "state.json")
    path.write_bytes(content[:-20])
    go_on()
    assert path.read_bytes() == content


def test_a_run_of_another_identity_in_its_place_is_refused(
    train_briefly: Callable[..., Run],
) -> None:
    run, other = train_briefly(), train_briefly("digits/base", "training.lr=0.001")
    shutil.rmtree(run.folder)
    shutil.copytree(other.folder, run.folder)
    with pytest.raises(RunError, match="the folder was put there by hand"):
        train_briefly()


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
