"""The verbs as people type them: what they print, what they refuse, what they load."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lockstep import cli
from lockstep.examples.models.digits import Preprocess
from lockstep.ground.errors import DataError
from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, Call, command, plain_environment
from lockstep.tests.records.test_receipt import resealed

BRIEF = ("digits", "training.epochs=1", "data.limit=100", "training.checkpoint_every=3")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, finished_run: Run) -> Path:
    """A runs folder with one finished run and one that was stopped, which is the newer."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(finished_run.folder, folder / finished_run.name, symlinks=True)
    stopped = folder / "digits-base-s7-0123abcd"
    shutil.copytree(finished_run.folder, stopped, symlinks=True)
    (stopped / "receipt.json").unlink()
    os.utime(folder / finished_run.name, (1, 1))
    os.utime(stopped, (2, 2))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of ten pictures, a zero first and a nine last."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("pictures")
    for digit, pixels in enumerate(load_digits().images[:10]):
        Preprocess.show(pixels).save(folder / f"{digit}.png")
    return [str(folder / f"{digit}.png") for digit in range(10)]


VERBS = (
    "train, evaluate, predict, run, tune, runs, compare, diff, reproduce, accept, checkout, "
    "delete, track, ui, data, serve, bundle, publish, keys, audit, deploy, container, config, "
    "doctor, new-model, schema, init, upgrade, image, parity"
)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("trian",), f"trian: no such verb. Did you mean train? (there are {VERBS})"),
        ((), "the following arguments are required: VERB"),
        (("train", "--sead", "3"), "unrecognized arguments: --sead"),
        (("train", "--seed", "many"), "argument --seed: invalid int value: 'many'"),
        (("runs", "more"), "unrecognized arguments: more"),
        (("train", "digitz"), "digitz: no such model. Did you mean digits? (there are "),
        (("config", "digits/bsae"), "digits/bsae: no such recipe. Did you mean base? (digits has"),
        (("train", "digits", "training.epoch=5"), "override: training.epoch: no such setting. Did"),
        (
            ("train", "digits", "--seed", "-1"),
            "seed: found -1, expected int from 0 to 9223372036854775807",
        ),
        (
            ("train", "digits", "data.name=digitz"),
            "data.name: 'digitz' is not in the catalog. Did you mean",
        ),
        (("evaluate", "digits-base-s43"), "digits-base-s43: no such run in "),
        (("predict", "nothing", "file.png"), "nothing: no such run in "),
        (("serve", "nothing"), "nothing: no such run in "),
        (("serve",), "serve: found 0 runs in "),
        (("serve", "nothing", "--port", "65536"), "argument --port: invalid port value: '65536'"),
        (
            ("new-model", "My-Model"),
            "'My-Model': not a name for a model, expected lowercase letters",
        ),
        (
            ("train", "digits", "--model", "tags"),
            "model: found digits and tags, expected one of them",
        ),
        (("train",), "model: not named, expected one of apparel, characters, digits, forge, "),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_exit_code_2(
    call: Call, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    if words and words[0] in ("train", "evaluate", "predict", "serve"):
        words = (*words, "--runs", str(tmp_path / "runs"))
    code, out, err = call(*words)
    assert (code, out, err.count("\n"), (tmp_path / "runs").exists()) == (2, "", 1, False)
    assert err.startswith(f"error: {told}")


def test_a_bad_example_that_a_loader_meets_is_reported_in_one_line_too(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.data import get_worker_info

    def refusing(_: Preprocess, inputs: Any, generator: Any) -> Any:
        if get_worker_info():
            raise DataError("picture 3: found nothing in it.")
        return inputs

    monkeypatch.setattr(Preprocess, "augment", refusing)
    code, out, err = call("train", *BRIEF, "training.loaders=2", "--runs", str(tmp_path))
    (run,) = tmp_path.iterdir()
    told = f"{run.name}: starts of 2\nerror: picture 3: found nothing in it.\n"
    assert (code, out, err) == (2, "", told)


def test_the_exit_code_is_that_of_the_process() -> None:
    found = [command(*words).returncode for words in ([], ["--help"], ["config", "digitz"])]
    assert found == [2, 0, 2]


def test_no_proxy_stands_between_the_processes_of_this_machine() -> None:
    code = "from urllib.request import proxy_bypass; from lockstep import cli; import os\n"
    code += "cli.reach_this_machine()\n"
    code += "print([bool(proxy_bypass(host)) for host in ('127.0.0.1', 'localhost', 'a.b', 'c')])"
    names = ("no_proxy", "NO_PROXY", "http_proxy")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    for variables in ({"NO_PROXY": "a.b"}, {"no_proxy": "a.b"}):
        variables |= {"http_proxy": "http://127.0.0.1:9"}
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=kept | variables, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout == "[True, True, True, False]\n", done.stderr


def test_help_names_every_verb_and_what_it_is_for(call: Call) -> None:
    code, out, _ = call("--help")
    told = " ".join(out.split())
    sentences = cli.command_line()[1].sentences
    assert (code, set(VERBS.split(", ")) - {"container"}) == (0, set(sentences))
    assert [text for text in sentences.values() if text not in told] == []


def test_training_ends_with_three_lines_and_a_second_call_reports_the_run(
    call: Call, tmp_path: Path
) -> None:
    words = ("train", *BRIEF, "--seed", "7", "--runs", str(tmp_path))
    code, out, err = call(*words)
    (run,) = tmp_path.iterdir()
    receipt = json.loads((run / "receipt.json").read_text())
    accuracy = receipt["results"]["metrics"]["test"]["accuracy"]
    assert (code, out.splitlines()) == (
        0,
        [
            f"run {run}",
            f"weights sha256 {receipt['results']['weights_sha256']}",
            f"test accuracy {accuracy:.4f}",
        ],
    )
    assert f"{run.name}: starts of 2\n" in err
    assert "epoch   1 of 1  training loss " in err

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert call(*words) == (0, out, "")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert call(*words, "--json") == (0, (run / "receipt.json").read_text(), "")


def test_overrides_may_stand_before_and_after_options_and_alone(call: Call) -> None:
    ways = [
        ("config", "digits/base", "training.lr=0.5", "training.epochs=2", "--json"),
        ("config", "digits", "training.lr=0.5", "--json", "training.epochs=2"),
        ("config", "--json", "--model=digits", "training.lr=0.5", "--set=training.epochs=2"),
    ]
    found = [call(*words) for words in ways]
    values = {row["key"]: row["value"] for row in json.loads(found[0][1])}
    assert (values["training.lr"], values["training.epochs"]) == (0.5, 2)
    assert found == [found[0]] * 3


def test_evaluation_finds_what_the_receipt_says(call: Call, finished_run: Run, runs: Path) -> None:
    assert finished_run.receipt
    wanted = finished_run.receipt["results"]["metrics"]["test"]
    code, out, _ = call("evaluate", finished_run.name, "--runs", str(runs))
    first, second = out.splitlines()
    assert (code, second) == (0, "as in the receipt")
    assert first == (
        f"test accuracy {wanted['accuracy']:.4f}  f1 {wanted['f1']:.4f}  loss {wanted['loss']:.4f}"
    )
    code, out, _ = call("evaluate", finished_run.name, "--runs", str(runs), "--json")
    assert (code, json.loads(out)) == (0, {"test": wanted, "as_in_receipt": True})


@pytest.mark.slow
def test_evaluation_and_prediction_are_processes_that_enter_the_profile(
    finished_run: Run, runs: Path, pictures: list[str]
) -> None:
    where = ("--runs", str(runs))
    found = [
        command("evaluate", finished_run.name, *where),
        command("predict", finished_run.name, pictures[0], *where),
    ]
    assert [(done.returncode, done.stderr) for done in found] == [(0, "")] * 2
    assert found[0].stdout.endswith("as in the receipt\n")


def test_evaluation_says_so_when_the_receipt_says_otherwise(
    call: Call, finished_run: Run, tmp_path: Path
) -> None:
    copy = shutil.copytree(finished_run.folder, tmp_path / finished_run.name, symlinks=True)
    receipt: Any = finished_run.receipt
    receipt["results"]["metrics"]["test"]["accuracy"] = 1.0
    (copy / "receipt.json").write_bytes(resealed(receipt))
    code, out, _ = call("evaluate", str(copy))
    assert (code, out.splitlines()[1]) == (1, "NOT as in the receipt")


def test_predictions_come_in_the_order_of_the_files(
    call: Call, finished_run: Run, pictures: list[str]
) -> None:
    run = str(finished_run.folder)
    code, out, _ = call("predict", run, *pictures, "--json")
    answers = json.loads(out)
    backwards = json.loads(call("predict", run, *pictures[::-1], "--json")[1])
    assert (code, len({answer["label"] for answer in answers}) > 1) == (0, True)
    assert [answer["label"] for answer in backwards[::-1]] == [a["label"] for a in answers]
    assert list(answers[0]) == ["label", "confidence", "confidences"]

    code, out, _ = call("predict", run, *pictures)
    assert (code, out.splitlines()) == (
        0,
        [
            f"{name}: {answer['label']} ({answer['confidence']:.1%})"
            for name, answer in zip(pictures, answers, strict=True)
        ],
    )


@pytest.mark.slow
def test_a_shell_that_knows_nothing_of_profiles_predicts_and_evaluates(
    call: Call, finished_run: Run, pictures: list[str]
) -> None:
    run = str(finished_run.folder)
    for words in (("predict", run, pictures[0], "--json"), ("evaluate", run, "--json")):
        done = subprocess.run(
            [sys.executable, "-m", "lockstep", *words],
            cwd=ROOT,
            env=plain_environment(),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == call(*words)[:2], done.stderr


def test_a_file_that_is_no_picture_is_refused_by_name(
    call: Call, finished_run: Run, pictures: list[str]
) -> None:
    code, out, err = call("predict", str(finished_run.folder), pictures[0], "none.png")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: none.png: no readable picture (")


def test_an_unfinished_run_is_not_used(call: Call, runs: Path, pictures: list[str]) -> None:
    for words in (("evaluate", "digits-base-s7"), ("predict", "digits-base-s7", pictures[0])):
        code, out, err = call(*words, "--runs", str(runs))
        assert (code, out) == (2, "")
        assert err.startswith(
            f"error: {runs}/digits-base-s7-0123abcd: is stopped at step 10, expected"
        )


def test_runs_are_listed_newest_first(call: Call, finished_run: Run, runs: Path) -> None:
    assert finished_run.receipt
    assert finished_run.identity
    identity = finished_run.identity["digest"][:12]
    accuracy = finished_run.receipt["results"]["metrics"]["test"]["accuracy"]
    rows = json.loads(call("runs", "--runs", str(runs), "--json")[1])
    assert [list(row.values()) for row in rows] == [
        [
            "digits-base-s7-0123abcd",
            "stopped at step 10",
            "digits",
            "base",
            42,  # a copy, whose name alone says 7
            None,
            None,
            identity,
            None,
        ],
        [
            *(finished_run.name, "finished", "digits", "base", 42),
            *("accuracy", round(accuracy, 4), identity, None),
        ],
    ]
    os.utime(runs / finished_run.name, (3, 3))
    again = json.loads(call("runs", "--runs", str(runs), "--json")[1])
    os.utime(runs / finished_run.name, (1, 1))
    assert again == rows[::-1]

    head, *lines = call("runs", "--runs", str(runs))[1].splitlines()
    names = list(rows[0])
    starts = [head.index(name) for name in names]
    table = [
        [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        for line in lines
    ]
    assert table == [["" if v is None else str(v) for v in row.values()] for row in rows]


def test_of_many_runs_the_newest_fifty_are_shown_and_the_rest_counted(
    call: Call, finished_run: Run, tmp_path: Path
) -> None:
    for number in range(53):
        folder = tmp_path / f"digits-base-s{number}-0123abcd"
        folder.mkdir()
        for name in ("identity.json", "receipt.json"):
            shutil.copy(finished_run.folder / name, folder)
        os.utime(folder, (number, number))
    _, out, err = call("runs", "--runs", str(tmp_path))
    first = [line.split()[0] for line in out.splitlines()[1:]]
    assert first == [f"digits-base-s{number}-0123abcd" for number in range(52, 2, -1)]
    assert err == "and 3 older; --all lists them\n"
    _, whole, _ = call("runs", "--runs", str(tmp_path), "--all")
    assert [len(whole.splitlines()), whole.splitlines()[:51]] == [54, out.splitlines()]
    assert len(json.loads(call("runs", "--runs", str(tmp_path), "--json")[1])) == 53


def test_an_empty_folder_of_runs_says_how_to_make_one(call: Call, tmp_path: Path) -> None:
    wanted = f"no runs in {tmp_path}; `invoke train --seed 42` makes one\n"
    assert call("runs", "--runs", str(tmp_path)) == (0, wanted, "")
    assert call("runs", "--runs", str(tmp_path), "--json") == (0, "[]\n", "")


def test_the_runs_are_where_a_variable_says_unless_the_command_says_otherwise(
    call: Call, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = call("runs", "--runs", str(runs))
    monkeypatch.setenv("LOCKSTEP_RUNS", str(runs))
    assert call("runs") == here
    assert call("runs", "--runs", str(tmp_path))[1].startswith(f"no runs in {tmp_path};")


@pytest.mark.slow
def test_the_doctor_has_a_line_for_each_thing(call: Call) -> None:
    code, out, _ = call("doctor")
    names = ["engine", "python", "lock", "files", "variables", "cpu", "gpu", "disk", "docker"]
    findings = json.loads(call("doctor", "--json")[1])
    assert [finding["name"] for finding in findings] == names
    well = [finding["ok"] for finding in findings]
    assert [line[:4] == "ok  " for line in out.splitlines()] == well
    assert code == (0 if all(well) else 1)


SERVERS = {"fastapi", "starlette", "uvicorn", "mlflow"}
HEAVY = {"torch", "sklearn", "matplotlib", "pandas", "PIL"} | SERVERS
CODE = """
import sys
try:
    {}
finally:
    print(sorted({} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import tasks",
        "from lockstep.cli import main; main(['--help'])",
        "from lockstep.cli import main; main(['config', 'apparel'])",
        "from lockstep.cli import main; main(['runs', '--runs', 'no-such-folder'])",
        pytest.param("from lockstep.cli import main; main(['doctor'])", marks=pytest.mark.slow),
        "from lockstep.cli import main; main(['train', 'digits', 'training.epoch=1'])",
    ],
)
def test_what_does_not_train_loads_nothing_heavy(statement: str) -> None:
    if "doctor" in statement and shutil.which("nvidia-smi"):
        pytest.skip("looks at the GPU through torch")
    words = [sys.executable, "-c", CODE.format(statement, HEAVY)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_training_loads_no_server(tmp_path: Path) -> None:
    words = ["train", *BRIEF, "--runs", str(tmp_path)]
    code = CODE.format(f"from lockstep.cli import main; main({words})", SERVERS)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"
