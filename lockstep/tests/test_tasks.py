"""The tasks and the hooks, as people run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep import cli
from lockstep.cli import command_line
from lockstep.tests.conftest import ROOT

BIN = Path(sys.executable).parent


def run(*words: str, **options: str) -> subprocess.CompletedProcess[str]:
    cwd = options.get("cwd", str(ROOT))
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_every_task_is_listed_with_its_sentence() -> None:
    listed = run(str(BIN / "invoke"), "--list").stdout
    tasks = "audit bundle compare config data doctor evaluate format lint lock new-model notebook"
    tasks += " keys predict publish reproduce runs serve test track train tune ui wheelhouse"
    tasks += " accept checkout delete deploy diff add remove"
    assert [name for name in tasks.split() if f"  {name} " not in listed] == []


def test_exit_codes_and_errors_come_through(tmp_path: Path) -> None:
    done = run(
        str(BIN / "invoke"),
        "train",
        "--model=digits",
        "--set=training.epoch=3",
        f"--runs={tmp_path}",
    )
    assert (done.returncode, "Did you mean training.epochs?" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_run_is_deleted_and_restored_and_the_trash_is_emptied_by_the_task(tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "identity.json").write_text("{}")
    trash, where = tmp_path / ".trash", f"--runs={tmp_path}"
    words = ["first second --yes", "--restore first", "--yes third", "--restore third"]
    for word in [*words, "first -y", "first --purge --yes"]:
        done = run(str(BIN / "invoke"), "delete", *word.split(), where)
        assert (done.returncode, done.stderr) == (0, "")
    names = [sorted(path.name for path in folder.iterdir()) for folder in (tmp_path, trash)]
    assert names == [[".trash", "third"], ["second"]]
    done = run(str(BIN / "invoke"), "delete", "--purge", "--yes", where)
    assert (done.stdout, list(trash.iterdir())) == ("removed second\n", [])


def test_tasks_can_be_run_from_a_folder_below(tmp_path: Path) -> None:
    done = run(
        str(BIN / "invoke"), "config", "--model=apparel", cwd=str(ROOT / "lockstep" / "data")
    )
    assert "fashion-mnist" in done.stdout


@pytest.mark.slow
def test_the_hooks_pass_on_all_files_without_a_network() -> None:
    if not (ROOT / ".venv" / "bin" / "pre-commit").exists():
        pytest.fail("the hooks run in .venv; run the tests by ./workbench test")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    words = ["unshare", *user, "--net", str(ROOT / ".venv/bin/pre-commit"), "run", "--all-files"]
    done = run(*words)
    assert done.returncode == 0, done.stdout


def test_a_large_file_is_refused_before_a_commit(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(1 << 21))
    done = run(sys.executable, "environment/hooks.py", "large-files", str(tmp_path / "large"))
    assert (done.returncode, "2.0 MiB" in done.stdout) == (1, True)


def test_a_half_done_merge_is_refused_before_a_commit(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("one\n" + "<" * 7 + " HEAD\ntwo\n")
    done = run(sys.executable, "environment/hooks.py", "merged", str(page))
    assert (done.returncode, done.stdout.partition(": ")[0]) == (1, f"{page}:2")


TYPED = [
    *(("train", option) for option in ("--seed", "--until", "--workers")),
    *(("tune", option) for option in ("--seed", "--trials", "--parallel", "--batch")),
    *(("data add x --name y", option) for option in ("--validation", "--test", "--size")),
    ("config", "--seed"),
    ("reproduce x", "--steps"),
    ("serve x", "--port"),
    ("ui", "--port"),
    ("train", "--in"),
    ("image build", "--stage"),
]


@pytest.mark.parametrize(("verb", "option"), TYPED)
def test_a_value_of_another_type_is_one_line_and_code_2_for_each_option(
    verb: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*verb.split(), option, "banana"])
    told = capsys.readouterr().err
    assert (end.value.code, len(told.splitlines()), option in told) == (2, 1, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train --seed banana", "argument --seed: invalid int value: 'banana'"),
        ("train --sed 4", "unrecognized arguments: --sed"),
        ("trian", "trian: no such task. Did you mean train?"),
        ("test --mutant", "test: --mutant: no such option. Did you mean --mutants?"),
        ("lint --nosuch", "lint: --nosuch: no such option. (`invoke lint --help`)"),
        ("lint extra", "lint: extra: no such task."),
        ("notebook --port", "notebook: --port: found no value, expected one."),
        ("add", "add: found no package, expected one."),
        ("serve nothing --port 0", "argument --port: invalid port value: '0'"),
        ("test --mutants --only nosuch", "--only: no mutant has 'nosuch' in its name or path"),
    ],
)
def test_invoke_ends_a_mistake_in_one_line_with_code_2(words: str, told: str) -> None:
    done = run(str(BIN / "invoke"), *words.split())
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert told in done.stderr


def test_invoke_takes_the_same_words_as_the_command_line(tmp_path: Path) -> None:
    words = ["config", "digits/base", "training.lr=0.5", "--json", "training.epochs=2"]
    mine, theirs = run(str(BIN / "invoke"), *words), run(sys.executable, "-m", "lockstep", *words)
    assert (mine.returncode, mine.stdout) == (0, theirs.stdout)


def test_the_list_of_tasks_loads_neither_torch_nor_a_library_of_a_verb() -> None:
    code = "import sys; sys.argv = ['invoke', '--list']; import tasks; print(sorted(sys.modules))"
    done = run(sys.executable, "-c", code)
    assert {"torch", "numpy", "rich", "mlflow"} & set(eval(done.stdout)) == set()


def test_the_help_of_a_verb_names_only_defaults_that_say_something(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for verb in command_line()[1].names:
        with pytest.raises(SystemExit):
            cli.main([verb, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert re.findall(r"\(default: (?:None|False|\[\])?\)", text) == [], verb


def test_invoke_shows_the_help_of_its_own_tasks_and_options() -> None:
    done = run(str(BIN / "invoke"), "lock", "--help")
    assert (done.returncode, done.stderr, "--upgrade" in done.stdout) == (0, "", True)
