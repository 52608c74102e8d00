"""Invoke tasks: each is a docstring and a line. ``invoke --list`` shows them."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from invoke import Context, Exit, task

ROOT = Path(__file__).parent
CODE = ("project", "tests", "benchmarks", "environment", "tasks.py")


def run(*command: str) -> None:
    """Run a command in the repository's root with our terminal; its exit code becomes ours."""
    from project.processes import follow_parent  # here: listing the tasks needs none of it

    def as_a_child() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        follow_parent()  # be told to stop (and save) when the task itself is killed

    # The child leads no group of its own, so Ctrl-C reaches both: we wait while it saves and ends.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(command, preexec_fn=as_a_child)
    signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    code = child.wait()
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code:
        raise Exit(code=code if code > 0 else 128 - code)


def project(*words: str) -> None:
    """``python -m project ...`` from wherever the user stands."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))
    run(sys.executable, "-m", "project", *words)


def tool(name: str, *words: str) -> None:
    """A locked tool, in the repository's root."""
    os.chdir(ROOT)
    run(str(Path(sys.executable).with_name(name)), *words)


def given(**options: object) -> Sequence[str]:
    """Options that were given, as words for the command line."""
    words: list[str] = []
    for name, value in options.items():
        name = "--" + name.replace("_", "-")
        words += (
            [name] if value is True else [name, str(value)] if value not in (None, False) else []
        )
    return words


@task(
    iterable=["set"],
    help={
        "set": "a setting, key=value; may be repeated",
        "workers": "processes that share each batch; default: as the recipe says, or one a core",
        "until": "stop after this step, saved",
    },
)
def train(
    _: Context,
    seed: int = 0,
    model: str = "digits",
    recipe: str = "base",
    set: list[str] = [],
    workers: int | None = None,
    until: int | None = None,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Start a run, go on with it, or report it if it is finished."""
    options = given(seed=seed, workers=workers, until=until, runs=runs, json=json)
    project("train", f"{model}/{recipe}", *set, *options)


@task
def evaluate(_: Context, run: str, runs: str | None = None, json: bool = False) -> None:
    """Measure a run's weights on the test split again."""
    project("evaluate", run, *given(runs=runs, json=json))


@task(iterable=["file"], help={"file": "an input; may be repeated"})
def predict(
    _: Context, run: str, file: list[str], runs: str | None = None, json: bool = False
) -> None:
    """Label files with the model of a run."""
    project("predict", run, *file, *given(runs=runs, json=json))


@task(help={"report": "a page to write, that shows where they part"})
def compare(
    _: Context,
    a: str,
    b: str,
    report: str | None = None,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Say whether two runs have the same bits, or where they part and what explains it."""
    project("compare", a, b, *given(report=report, runs=runs, json=json))


@task(help={"steps": "train only so far"})
def reproduce(
    _: Context, run: str, steps: int | None = None, runs: str | None = None, json: bool = False
) -> None:
    """Train a run again from its recorded source and compare bit by bit."""
    project("reproduce", run, *given(steps=steps, runs=runs, json=json))


@task
def runs(_: Context, runs: str | None = None, all: bool = False, json: bool = False) -> None:
    """List the runs, newest first."""
    project("runs", *given(runs=runs, all=all, json=json))


@task(iterable=["set"])
def config(
    _: Context,
    model: str = "digits",
    recipe: str = "base",
    set: list[str] = [],
    json: bool = False,
) -> None:
    """Print every setting of a recipe: value, type, where it came from, what it means."""
    project("config", f"{model}/{recipe}", *set, *given(json=json))


@task
def doctor(_: Context, json: bool = False) -> None:
    """Check interpreter, lock, variables, CPU, GPU, disk and docker."""
    project("doctor", *given(json=json))


@task
def new_model(_: Context, name: str) -> None:
    """Write a model folder that trains, with its test."""
    project("new-model", name)


@task(help={"only": "a pytest expression, as after -k"})
def test(_: Context, only: str | None = None, fast: bool = False) -> None:
    """Run the whole test suite; --fast leaves out what takes long."""
    tool("pytest", *(["-k", only] if only else []), *(["-m", "not slow"] if fast else []))


@task(help={"full": "kill 500 times instead of 20", "write": "put the table into the README"})
def prove(_: Context, full: bool = False, write: bool = False) -> None:
    """Try every claim on this machine and print the table of them."""
    from tests.claims import CLAIMS

    named = sorted({f"tests/{test}" for claim in CLAIMS for test in claim.tests})
    tool("pytest", *named, *(["--full"] if full else []), *(["--write-claims"] if write else []))


@task
def lint(_: Context) -> None:
    """Check format, style and types, and the Dockerfiles."""
    tool("black", "--check", "--quiet", *CODE)
    tool("ruff", "check", "--quiet", *CODE)
    tool("mypy", "project")
    dockerfiles = [str(path) for path in ROOT.glob("docker/*Dockerfile")]
    if dockerfiles:
        tool("hadolint", *dockerfiles)


@task(name="format")
def format_(_: Context) -> None:
    """Bring the code into its one format."""
    tool("ruff", "check", "--quiet", "--fix", "--select", "I", *CODE)
    tool("black", "--quiet", *CODE)


@task
def lock(_: Context) -> None:
    """Lock all categories of the Pipfile anew."""
    run(sys.executable, str(ROOT / "environment" / "lock.py"))


@task
def notebook(_: Context, port: int = 8888) -> None:
    """Start JupyterLab here, on this machine only."""
    tool("jupyter", "lab", "--ip=127.0.0.1", f"--port={port}", *_no_root_question())


def _no_root_question() -> list[str]:
    return ["--allow-root"] if os.geteuid() == 0 else []
