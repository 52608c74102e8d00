"""A run again from its own source: what is said before, what is found, what is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lockstep import cli
from lockstep.ground import environment
from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.errors import RunError
from lockstep.ground.files import held, is_held, remove_abandoned
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records import source
from lockstep.records.identity import identity
from lockstep.records.provenance import code_of
from lockstep.records.receipt import DIGESTED, level
from lockstep.records.reproduce import differences_here, not_covered
from lockstep.records.run import Run
from lockstep.records.verify import verify
from lockstep.run.story import run_experiment
from lockstep.tests.conftest import ROOT, experiment
from lockstep.tests.records.test_compare import changed_data

BRIEF = ("training.epochs=1", "data.limit=130")


def project(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python -m lockstep ...`` of the package that lies in a folder."""
    command = [sys.executable, "-m", "lockstep", *words]
    env = os.environ | {"PYTHONPATH": str(folder)} | variables
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def clone(folder: Path) -> Path:
    """A copy of the package and its lock, to be edited."""
    shutil.copytree(ROOT / "lockstep", folder / "lockstep")
    shutil.copy(ROOT / "Pipfile.lock", folder)
    return folder


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "lockstep/examples/models/digits/model.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def trained(folder: Path) -> Run:
    done = project(folder, "train", "digits/base", "--seed=3", *BRIEF)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").iterdir()
    return Run(run)


def resealed(run: Run, folder: Path, **changes: Any) -> Run:
    """A copy of a run whose receipt says something else, as if it had been made so."""
    copy = Run(shutil.copytree(run.folder, folder / "resealed", symlinks=True))
    receipt: Any = copy.receipt
    del receipt["digest"]
    for key, change in changes.items():
        receipt[key] = receipt.get(key, {}) | change
    receipt["digest"] = digest_of(canonical_json(receipt))
    (copy.folder / "receipt.json").write_bytes(readable_json(receipt))
    assert verify(copy) == []
    return copy


@pytest.mark.slow
def test_a_run_of_a_dirty_tree_is_reproduced_from_another_tree_and_place(tmp_path: Path) -> None:
    """Trained by edited code that is nowhere any more, moved, reproduced by the code here."""
    (tmp_path / "temporary").mkdir()
    tree = clone(tmp_path / "clone")
    edit(tree, "nn.ReLU()", "nn.SiLU()")
    run = trained(tree)
    moved = Run(Path(shutil.move(run.folder, tmp_path / "moved" / run.name)))
    shutil.rmtree(tree)
    before = {path: path.stat().st_mtime_ns for path in moved.folder.rglob("*")}

    runs = f"--runs={tmp_path / 'moved'}"
    temporary = str(tmp_path / "temporary")
    done = project(ROOT, "reproduce", run.name, runs, "--trust-code", TMPDIR=temporary)
    assert moved.receipt
    weights = moved.receipt["results"]["weights_sha256"]
    told = f"same bits: 3 steps, weights sha256 {weights}\n"
    assert (done.returncode, done.stdout) == (0, told), done.stderr
    assert f"{run.name}: starts of 3" in done.stderr
    assert "differs here" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in moved.folder.rglob("*")} == before
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
def test_a_run_that_does_not_come_out_the_same_is_told_and_kept(tmp_path: Path) -> None:
    tree = clone(tmp_path / "clone")
    edit(
        tree,
        "super().__init__()",
        "super().__init__(); torch.manual_seed(__import__('os').getpid())",
    )
    run = trained(tree)
    (tmp_path / "temporary").mkdir()
    words = ("reproduce", str(run.folder), "--json", "--trust-code")
    done = project(ROOT, *words, TMPDIR=str(tmp_path / "temporary"))
    found = json.loads(done.stdout)
    assert (done.returncode, found["same"]) == (1, False), done.stderr
    assert (found["step"], found["column"]) == (1, "loss")
    assert found["verdict"].endswith("(or they began with other weights)")
    assert found["tensor"]["differing"] > 0
    assert found["differences"] == found["before"] == []
    kept = Run(Path(found["kept"]))
    assert (kept.name, kept.state, verify(kept)) == (run.name, "finished", [])
    (folder,) = (tmp_path / "temporary").iterdir()
    assert found["page"] == str(folder / "comparison.html")
    assert "part at step 1" in Path(found["page"]).read_text()


@pytest.mark.slow
def test_a_beginning_is_held_against_the_beginning_of_the_trace(
    finished_run: Run, tmp_path: Path
) -> None:
    words = ("reproduce", str(finished_run.folder), "--steps=7", "--json")
    done = project(ROOT, *words, TMPDIR=str(tmp_path))
    found = json.loads(done.stdout)
    assert (done.returncode, found["same"], found["steps"]) == (0, True, [10, 7]), done.stderr
    name = finished_run.name
    assert found["verdict"] == f"same bits in the 7 steps in common; not finished: B ({name})"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_on_data_that_is_not_here_is_told_and_parts_at_its_first_use(
    place: Place, tmp_path: Path
) -> None:
    def change(inputs: Any, labels: Any) -> None:
        labels[:130] = (labels[:130] + 1) % 10

    overrides = ("training.epochs=1", "data.limit=130")
    elsewhere = changed_data(place, tmp_path / "data", change)
    run = run_experiment(experiment("digits/base", *overrides), elsewhere, Watch())
    assert run
    done = project(ROOT, "reproduce", str(run.folder), "--json", TMPDIR=str(tmp_path))
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    digest = run.parts["data"][:12]
    assert f"data of digest {digest} is not prepared here; " in done.stderr
    assert (found["step"], found["column"]) == (1, "batch")
    told = [(row["part"], row["name"], row["a"]) for row in found["differences"]]
    # Classes share a limit alike: with other labels it takes other rows, which have another mean.
    assert told[0] == ("data", "digest", f"sha256 {digest}")
    assert {name for _, name, _ in told[1:]} == {"mean", "deviation"}


@pytest.mark.slow
def test_a_code_that_cannot_train_here_is_no_verdict(finished_run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    variables = {"TMPDIR": str(tmp_path), "LOCKSTEP_DATA": str(tmp_path / "file" / "data")}
    done = project(ROOT, "reproduce", str(finished_run.folder), **variables)
    assert (done.returncode, done.stdout) == (2, "")
    first, last = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert first.startswith(f"error: {tmp_path}/file/data")
    assert f"{finished_run.name}: its code ended here with exit code 2 (see above) after 0" in last
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_source_in_a_run_is_enough_to_train(finished_run: Run) -> None:
    """The files that are in the identity are those that the restored tree finds by itself."""
    kept = source.unpacked(finished_run.folder / "source.zip")
    ran = set(finished_run.parts["source"])
    beside = {
        "lockstep/__main__.py",
        "lockstep/cli/__init__.py",
        "lockstep/examples/data/digits.yaml",
    }
    assert beside <= {*kept} - ran
    assert ran <= set(kept)


@pytest.mark.parametrize(
    "name", ["receipt.json", "trace.bin", "metrics.jsonl", "source.zip", "weights.safetensors"]
)
def test_an_altered_run_is_refused_before_anything_is_trained(
    finished_run: Run, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(finished_run.folder, tmp_path / "copy", symlinks=True)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    code, told = cli.main(["reproduce", str(copy)]), capsys.readouterr().err
    assert (code, told.count("\n"), name in told) == (2, 1, True)


def test_an_unfinished_run_is_refused(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(finished_run.folder, tmp_path / "copy", symlinks=True)
    (copy / "receipt.json").unlink()
    code, told = cli.main(["reproduce", str(copy)]), capsys.readouterr().err
    assert (code, told) == (
        2,
        f"error: {copy}: is stopped at step 10, expected a finished run; run its train command to "
        "the end.\n",
    )


def test_nothing_differs_on_the_machine_that_made_the_run(finished_run: Run) -> None:
    assert (differences_here(finished_run), not_covered(finished_run)) == ([], "")


def test_every_difference_between_the_receipt_and_here_is_named(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts: dict[str, object] = {
        "python": "3.9.1",
        "torch": "2.0.0",
        "platform": "Linux x86_64, glibc 2.1",
    }
    facts |= {"image": "sha256:1", "threads": 4}
    run = resealed(finished_run, tmp_path, environment=facts)
    there = environment.installed() | {"numpy": "0.1"}
    del there["xxhash"]
    monkeypatch.setattr(environment, "installed", lambda: there)
    found = {f"{row.part} {row.name}": (row.a, row.b) for row in differences_here(run)}
    installed = finished_run.parts["packages"]
    here = environment.facts(1, environment.torch_version())
    assert found == {
        "package numpy": (installed["numpy"][0], "0.1"),
        "package xxhash": (installed["xxhash"][0], "none"),
        "environment python": ("3.9.1", here["python"]),
        "environment torch": ("2.0.0", here["torch"]),
        "environment platform": ("Linux x86_64, glibc 2.1", here["platform"]),
        "environment image": ("sha256:1", "None"),
    }


def test_torch_need_not_be_loaded_to_know_its_version() -> None:
    import torch

    assert environment.torch_version() == torch.__version__


NEW, OLD = {"model": "new", "features": ["avx", "avx2"]}, {"model": "old", "features": ["avx"]}
ANY, HERE = "same bits on any AVX2 x86-64 CPU (portable)", "same bits on this machine"


def test_the_level_is_what_profile_device_and_reasons_allow() -> None:
    def promise(*words: Any) -> str:
        return str(level(*words)["promise"])

    assert level("portable", "cpu", "a CPU", None, []) == {"promise": ANY, "lowered": []}
    reasons = ["aten::sqrt"]
    assert level("portable", "cpu", "a CPU", None, reasons) == {"promise": HERE, "lowered": reasons}
    assert promise("native", "cpu", "a CPU", None, []) == (
        "same bits on this kind of machine (a CPU)"
    )
    assert promise("portable", "cuda", "a CPU", "a GPU", []) == (
        "same bits on the same GPU model (a GPU)"
    )


# What a forger would have the recorded command line do: not train, but lay out what is claimed.
FORGED = """
import shutil, sys
from pathlib import Path
shutil.copytree({folder!r}, Path(sys.argv[sys.argv.index("--runs") + 1]) / {name!r})
"""


def forged(run: Run, folder: Path, *counted: str, **code: str) -> Run:
    """A copy of a run with other weights, some other code, and a receipt that fits all of it.

    Of the other files those ``counted`` are in the identity too.
    """
    copy = Run(shutil.copytree(run.folder, folder / run.name, symlinks=True))
    receipt: Any = copy.receipt
    weights = bytearray((copy.folder / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy.folder / "weights.safetensors").write_bytes(weights)
    files = source.unpacked(copy.folder / "source.zip")
    main = FORGED.format(folder=str(copy.folder), name=run.name).encode()
    files |= {"lockstep/__main__.py": main, "torch.py": main}
    parts: Any = copy.parts
    for name, text in code.items():
        path = f"lockstep/training/{name}.py"
        files[path] += text.encode()
        parts["source"][path] = source.digests({path: files[path]})[path]
    parts["source"] |= source.digests({name: files[name] for name in counted})
    (copy.folder / "source.zip").write_bytes(source.archive(files))
    (copy.folder / "parts.json").write_bytes(readable_json(parts))
    (copy.folder / "identity.json").write_bytes(readable_json(identity(parts)))
    del receipt["digest"]
    receipt["identity"] = identity(parts)
    for key, name in DIGESTED.items():
        receipt["results"][key] = digest_of(copy.folder / name)
    receipt["digest"] = digest_of(canonical_json(receipt))
    (copy.folder / "receipt.json").write_bytes(readable_json(receipt))
    assert verify(copy) == []
    return copy


@pytest.mark.slow
def test_weights_that_its_code_does_not_make_are_found_whatever_else_was_forged(
    finished_run: Run, tmp_path: Path
) -> None:
    copy = forged(finished_run, tmp_path)
    done = project(ROOT, "reproduce", str(copy.folder), TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout[:9]) == (1, "DIFFERENT"), done.stdout + done.stderr
    assert (
        "differs from this tree: lockstep/__main__.py; what runs is this tree's, as it is in no "
        "identity\n"
    ) in done.stderr
    assert "differs from this tree: torch.py; what runs is this tree's" in done.stderr


def test_a_module_of_the_identity_that_would_take_the_place_of_another_is_refused(
    finished_run: Run, tmp_path: Path
) -> None:
    copy = forged(finished_run, tmp_path, "torch.py")
    with pytest.raises(RunError, match=r"source\.zip: torch\.py is neither of the engine nor of"):
        code_of(copy)


@pytest.mark.slow
def test_the_command_line_of_an_unknown_engine_does_not_run(
    finished_run: Run, tmp_path: Path
) -> None:
    copy = forged(finished_run, tmp_path, loop="ANOTHER = 1\n")
    done = project(ROOT, "reproduce", str(copy.folder), TMPDIR=str(tmp_path))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert (
        "2 of its files are in no identity and not known in this checkout (lockstep/__main__.py, "
        "torch.py)"
    ) in done.stderr


@pytest.mark.parametrize(
    ("recorded", "lowered", "here", "told"),
    [
        (NEW, [], NEW, ""),
        (NEW, [], NEW | {"model": "other"}, ""),
        (NEW, [], OLD, f"the run promises {ANY}, here is old without AVX2"),
        (NEW, ["x"], NEW, ""),
        (NEW, ["x"], OLD, f"the run promises {HERE} (lowered: x), here is old"),
    ],
)
def test_a_machine_that_the_level_does_not_cover_is_said(
    finished_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorded: dict[str, Any],
    lowered: list[str],
    here: dict[str, Any],
    told: str,
) -> None:
    promised = level("portable", "cpu", recorded["model"], None, lowered)
    run = resealed(finished_run, tmp_path, environment={"cpu": recorded}, level=promised)
    monkeypatch.setattr(environment, "cpu", lambda: here)
    assert not_covered(run) == told


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_who_is_stopped_leaves_no_process_and_no_folder(
    finished_run: Run, tmp_path: Path, number: signal.Signals
) -> None:
    process, child = reproducing(finished_run, tmp_path)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == 128 + number
    while running(child):
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_what_a_killed_reproduction_leaves_is_removed_by_the_next_when_nobody_works_in_it(
    finished_run: Run, tmp_path: Path
) -> None:
    process, child = reproducing(finished_run, tmp_path)
    (left,) = tmp_path.iterdir()
    os.kill(int(child), signal.SIGSTOP)
    while state(child) != "T":  # or the end of its parent might end it first
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert (is_held(left), remove_abandoned(left), left.exists()) == (True, False, True)
    os.kill(int(child), signal.SIGCONT)
    while running(child):
        time.sleep(0.01)
    process.communicate()
    assert (is_held(left), left.exists()) == (False, True)

    living = tmp_path / "lockstep-reproduce-of-another.part"
    living.mkdir()
    with held(living, print):
        words = ("reproduce", str(finished_run.folder), "--steps=2")
        done = project(ROOT, *words, TMPDIR=str(tmp_path))
    assert (done.returncode, list(tmp_path.iterdir())) == (0, [living]), done.stderr
    assert f"removed {left}, which a reproduction that was killed had left\n" in done.stderr


def reproducing(run: Run, temporary: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A reproduction that has come to its training, and the process that trains."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lockstep", "reproduce", str(run.folder)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        start_new_session=True,  # as a signal is to reach this process only
    )
    while not (child := training_child(process.pid)):
        time.sleep(0.01)
    return process, child


def training_child(pid: int) -> str:
    """The process that trains for a process, or nothing while there is none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        with suppress(FileNotFoundError, ProcessLookupError):  # git's, which have ended meanwhile
            if b"train\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
    return ""


def running(pid: str) -> bool:
    """Whether a process lives; one that ended and was not asked after does not."""
    return state(pid) not in ("", "Z")


def state(pid: str) -> str:
    """A process's state as the kernel names it: R, S, T, Z; nothing if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
