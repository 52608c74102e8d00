"""A team's own program: run, watched, compared, run again; each a process as people start it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.records.run import runs
from lockstep.records.script import Receipt, Script, metrics_in, options
from lockstep.script.watching import Digests
from lockstep.tests.conftest import ENGINE, ROOT, Call, plain_environment

PROGRAM = """
import json, os, random, sys, time
from pathlib import Path

import shared.scale

rate = json.loads(Path("rate.json").read_text())["rate"]
rows = Path(sys.argv[1]).read_text().split()
Path("out").mkdir(exist_ok=True)
numbers = [rate * shared.scale.FACTOR * random.random() for row in rows]
Path("out/weights.txt").write_text(f"{numbers} {hash('a')}")
with open("metrics.part", "w") as file:
    json.dump({"test": {"accuracy": 0.5}, "rows": len(rows)}, file)
os.replace("metrics.part", "metrics.json")
if "--chance" in sys.argv:
    Path("out/chance.txt").write_text(f"same\\n{os.urandom(8).hex()}")
if "--history" in sys.argv:
    with open("history.txt", "a") as file:
        file.write("again ")
if "--child" in sys.argv:
    import subprocess
    subprocess.run(["true"])
    subprocess.run([sys.executable, "shared/child.py"])
if "--fail" in sys.argv:
    raise ValueError("rate is too high\\nby much")
print("done")
if "--wait" in sys.argv:
    sys.stdout.flush()
    time.sleep(60)
"""
FILES = {
    "train.py": PROGRAM,
    "shared/__init__.py": "",
    "shared/scale.py": "FACTOR = 3  # as always\n",
    "shared/child.py": 'import random\nopen("child.txt", "w").write(str(random.random()))\n',
    "rate.json": '{"rate": 2}',
    "data/rows.txt": "a b c",
    ".gitignore": "/data/\n/out/\n",
}


class Clone:
    """A team's repository with a program, and a folder of runs beside it."""

    def __init__(self, folder: Path):
        self.folder = folder / "clone"
        self.runs = folder / "runs"
        for name, content in FILES.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(content)
        subprocess.run(["git", "init", "--quiet"], cwd=self.folder, check=True)

    @property
    def variables(self) -> dict[str, str]:
        own = {"LOCKSTEP_RUNS": str(self.runs), "PYTHONPATH": str(ROOT), "LOCKSTEP_TRACK": "off"}
        return plain_environment() | own

    def give(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lockstep", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.variables, capture_output=True, text=True
        )

    def run(self, *words: str, seed: int = 7) -> Script:
        """Run the program on the rows; the run that was written or is there already."""
        done = self.give("run", "--seed", str(seed), "--", "python", "train.py", *words)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("run "))
        return Script(Path(line.removeprefix("run ")))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def receipt(script: Script) -> Receipt:
    return script.finished_receipt()


def test_two_clones_have_the_same_identity_and_the_same_bits(tmp_path: Path) -> None:
    first, second = (Clone(tmp_path / name).run("data/rows.txt") for name in "ab")
    assert (first.identity, receipt(first)["results"]) == (
        second.identity,
        receipt(second)["results"],
    )
    assert first.folder.name == f"script-train-s7-{first.identity['digest'][:8]}"


def test_a_run_has_what_was_read_written_and_measured(clone: Clone) -> None:
    script = clone.run("data/rows.txt")
    results, parts = receipt(script)["results"], script.parts
    assert sorted(parts["source"]) == ["shared/__init__.py", "shared/scale.py", "train.py"]
    assert sorted(parts["inputs"]) == ["data/rows.txt", "rate.json"]
    assert sorted(results["outputs"]) == ["metrics.json", "out/weights.txt"]
    assert results["metrics"] == {"test.accuracy": 0.5, "rows": 3}
    assert receipt(script)["level"] == {"promise": "same bits on this machine", "lowered": []}
    assert (script.folder / "log.txt").read_text() == "done\n"
    copies = [(script.output(name).read_bytes(), name) for name in results["outputs"]]
    assert copies == [((clone.folder / name).read_bytes(), name) for name in results["outputs"]]


def test_the_same_command_compares_with_the_run_that_is_there(clone: Clone) -> None:
    first = clone.run("data/rows.txt")
    (clone.folder / "shared" / "scale.py").write_text("FACTOR = 3\n")  # a comment is no bit
    done = clone.give("run", "--seed", "7", "train.py", "data/rows.txt")
    assert done.stderr.splitlines()[-1] == "same bits as when it was run before"
    assert [run.name for run in runs(clone.runs)] == [first.folder.name]


@pytest.mark.parametrize(
    ("path", "content", "part"),
    [
        ("data/rows.txt", "a b", "inputs"),
        ("rate.json", '{"rate": 2} ', "inputs"),
        ("shared/scale.py", "FACTOR = 4\n", "source"),
    ],
)
def test_what_was_edited_is_another_identity(
    clone: Clone, path: str, content: str, part: str
) -> None:
    before = clone.run("data/rows.txt").identity
    (clone.folder / path).write_text(content)
    after = dict(clone.run("data/rows.txt").identity)
    assert {name for name, digest in before.items() if after[name] != digest} == {"digest", part}


def test_chance_that_nothing_seeds_is_named_when_the_program_runs_again(clone: Clone) -> None:
    first = clone.run("data/rows.txt", "--chance")
    second = clone.run("data/rows.txt", "--chance")
    assert second.folder.name == f"{first.folder.name}~2"
    done = clone.give("compare", first.folder.name, second.folder.name)
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        1,
        "DIFFERENT: out/chance.txt: differs from line 2 on",
    )


def test_reproduce_needs_no_more_than_the_run_and_its_large_inputs(clone: Clone) -> None:
    name = clone.run("data/rows.txt").folder.name
    for path in ("train.py", "rate.json"):
        (clone.folder / path).write_text("other")
    done = clone.give("reproduce", name)
    told = f"error: {name}: its code would run here, and train.py is not known in this checkout; "
    assert (done.returncode, done.stderr.startswith(told)) == (2, True)
    done = clone.give("reproduce", name, "--trust-code")
    assert (done.returncode, done.stdout) == (0, "same bits: 2 outputs\n"), done.stderr
    (clone.folder / "data" / "rows.txt").write_text("changed")
    done = clone.give("reproduce", name, "--trust-code")
    told = f"error: {name}: inputs have changed or are missing: data/rows.txt (sha256 "
    assert (done.returncode, done.stderr.startswith(told)) == (2, True)


def test_reproduce_says_which_output_has_other_bits(clone: Clone) -> None:
    name = clone.run("data/rows.txt", "--chance").folder.name
    done = clone.give("reproduce", name)
    verdict, _, kept = done.stdout.splitlines()
    assert (done.returncode, verdict) == (1, "DIFFERENT: out/chance.txt: differs from line 2 on")
    shutil.rmtree(Path(kept.split()[-1]).parents[1])


def test_a_file_that_the_program_reads_and_changes_counts_as_it_was_before(clone: Clone) -> None:
    names = [clone.run("data/rows.txt", "--history").folder.name for _ in range(2)]
    assert names[0] != names[1]
    done = clone.give("reproduce", names[1])
    assert (done.returncode, done.stdout) == (0, "same bits: 3 outputs\n"), done.stderr
    assert (clone.folder / "history.txt").read_text() == "again again "


def test_children_are_seeded_and_watched_or_named(clone: Clone) -> None:
    script = clone.run("data/rows.txt", "--child")
    lowered = receipt(script)["level"]["lowered"]
    assert lowered == ["true: a child process, which is not watched"]
    assert {"shared/child.py"} <= script.parts["source"].keys()
    assert {"child.txt"} <= receipt(script)["results"]["outputs"].keys()


def test_a_program_that_fails_hands_its_exit_code_on_and_is_listed_with_its_reason(
    clone: Clone,
) -> None:
    for _ in range(2):
        done = clone.give("run", "train.py", "data/rows.txt", "--fail")
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            1,
            "failed: ValueError: rate is too high (exit code 1)",
        )
    (run,) = runs(clone.runs)
    assert run.state == "failed: ValueError: rate is too high"
    assert sorted(path.name for path in run.folder.iterdir() if path.suffix == ".json") == [
        *("failure.json", "identity.json", "parts.json", "script.json")
    ]


@pytest.mark.parametrize(
    ("number", "group", "code", "left"),
    [
        (signal.SIGINT, True, 130, "failed: ended by SIGINT"),
        (signal.SIGTERM, False, 143, "failed: ended by SIGTERM"),
        (signal.SIGKILL, False, -9, None),
    ],
)
def test_a_signal_leaves_a_whole_run_or_none(
    clone: Clone, number: int, group: bool, code: int, left: str | None
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "lockstep", "run", "train.py", "data/rows.txt", "--wait"],
        cwd=clone.folder,
        env=clone.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # Where these tests run in a shell's background, Python would leave SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout and process.stdout.readline() == "done\n"
        (os.killpg if group else os.kill)(process.pid, number)
        process.stdout.read()  # to its end: the program has ended as well
    assert process.returncode == code
    assert [run.state for run in runs(clone.runs)] == ([left] if left else [])
    finished = clone.run("data/rows.txt")
    names = {path.name for path in clone.runs.iterdir()}
    assert names == {run.name for run in runs(clone.runs)} >= {finished.folder.name}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("bash", "train.sh"), "run: found 'bash', expected a Python program, which can be seeded"),
        ((), "run: found 'no command', expected a Python program, which can be"),
        (("python",), "run: found no program, expected invoke run -- python FILE.py ..."),
        (("python", "-c", "pass"), "run: found python -c pass, expected python FILE.py ... or"),
        (("python", "-I", "train.py"), "run: found python -I, which switches the watch off"),
        (("trian.py",), "trian.py: no such file in "),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    call: Call,
    clone: Clone,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(clone.folder)
    code, out, err = call("run", "--runs", str(clone.runs), "--", *words)
    assert (code, out, err.count("\n"), clone.runs.exists()) == (2, "", 1, False)
    assert err.startswith(f"error: {told}")


def test_verbs_on_runs_know_scripts_and_those_on_models_say_why_not(
    call: Call, clone: Clone, tmp_path: Path
) -> None:
    first, second = clone.run("data/rows.txt"), clone.run("data/rows.txt", seed=8)
    where = ("--runs", str(clone.runs))
    code, out, err = call("runs", *where, "--where", "test.accuracy==0.5", "--sort=-seed", "--json")
    assert [line["run"] for line in json.loads(out)] == [second.folder.name, first.folder.name]
    code, out, err = call("diff", first.folder.name, second.folder.name, *where)
    assert out.splitlines()[1].split() == ["command", "seed", "7", "8"]
    assert call("checkout", first.folder.name, str(tmp_path / "out"), *where)[0] == 0
    assert (tmp_path / "out" / "train.py").read_text() == PROGRAM
    for words in (("evaluate",), ("predict",), ("bundle",), ("serve",), ("accept",), ("publish",)):
        inputs: tuple[str, ...] = ("x.png",) if words == ("predict",) else ()
        inputs = ("--to", str(tmp_path)) if words == ("publish",) else inputs
        code, out, err = call(*words, first.folder.name, *inputs, *where)
        told = f"error: {first.folder.name}: is the run of a script, expected that of a model; "
        assert (words, code, err.count("\n"), err[: len(told)]) == (words, 2, 1, told)
    assert call("delete", second.folder.name, "--yes", *where)[0] == 0
    assert [run.name for run in runs(clone.runs)] == [first.folder.name]


@pytest.mark.parametrize("name", ["parts.json", "script.json", "log.txt", "outputs/metrics.json"])
def test_an_altered_file_of_a_run_is_named(clone: Clone, name: str) -> None:
    script = clone.run("data/rows.txt")
    path = script.folder / name
    path.write_bytes(path.read_bytes().replace(b"s", b"z", 1) + b" ")
    done = clone.give("compare", script.folder.name, script.folder.name)
    assert (done.returncode, name.rpartition("/")[2] in done.stderr) == (2, True)


@pytest.mark.slow
def test_the_example_trains_and_is_reproduced(clone: Clone) -> None:
    for path in (ENGINE / "examples" / "script").iterdir():
        shutil.copy(path, clone.folder)
    words = ["run", "--seed", "42", "--", "python", "train.py", "--lr", "0.2", "--epochs", "2"]
    done = clone.give(*words)
    (run,) = runs(clone.runs)
    assert (done.returncode, run.script and [*receipt(run.script)["results"]["outputs"]]) == (
        0,
        ["out/metrics.json", "out/model.pt"],
    )
    assert run.script and "torch" in run.script.parts["packages"]
    again = clone.give("reproduce", run.name)
    assert (again.returncode, again.stdout) == (0, "same bits: 2 outputs\n")


def test_options_of_a_command_line_are_named() -> None:
    words = ["train.py", "data.csv", "--lr", "0.1", "--fast", "--epochs=3", "--name", "x"]
    found = options({"words": words, "folder": ".", "seed": 0, "threads": 1})
    assert found == {"lr": 0.1, "fast": True, "epochs": 3, "name": "x"}


def test_metrics_are_the_finite_numbers_of_a_file() -> None:
    content = b'{"a": 1, "b": {"c": 0.5, "d": "x"}, "e": NaN, "f": true, "g": [1]}'
    assert metrics_in(content) == {"a": 1, "b.c": 0.5}
    assert (metrics_in(b"[1]"), metrics_in(b"no")) == ({}, {})


def test_a_large_file_is_read_again_only_if_it_was_written_since(tmp_path: Path) -> None:
    path, data = tmp_path / "large", tmp_path / "data"
    path.write_bytes(bytes(1 << 20))
    os.utime(path, (1, 1))
    first = Digests(data)
    digest = first.of(str(path))
    first.save()
    (known,) = json.loads((data / "digests.json").read_bytes()).values()
    assert known[-1] == digest == Digests(data).of(str(path))
    path.write_bytes(bytes([1]) * (1 << 20))
    assert Digests(data).of(str(path)) != digest
