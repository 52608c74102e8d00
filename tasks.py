"""Tasks: ``invoke --list`` shows them. The engine's verbs are tasks too; add your own below."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from invoke import Collection, Context, Exit, Task, task

from lockstep.cli.tasks import hand_over, verb_tasks

ROOT = Path(__file__).parent
NOTEBOOKS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("notebooks/*.ipynb"))


def run(*command: str) -> None:
    """Run a command in the repository's root with our terminal; its exit code becomes ours."""
    from lockstep.ground.processes import follow_parent  # here: listing the tasks needs none of it

    def as_a_child() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        follow_parent()  # stops (and saves) when the task itself is killed

    # The child leads no group of its own, so Ctrl-C reaches both: we wait while it saves and ends.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(command, preexec_fn=as_a_child)
    signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    code = child.wait()
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code:
        raise Exit(code=code if code > 0 else 128 - code)


def engine(*words: str) -> None:
    """``python -m lockstep ...`` from wherever the user stands."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))
    run(sys.executable, "-P", "-m", "lockstep", *words)  # -P: no module of the user's folder


def tool(name: str, *words: str) -> None:
    """A locked tool, in the repository's root."""
    os.chdir(ROOT)
    run(str(Path(sys.executable).with_name(name)), *words)


def given(**options: object) -> Sequence[str]:
    """Options that were given, as words for the command line."""
    words: list[str] = []
    for name, value in options.items():
        name = "--" + name.rstrip("_").replace("_", "-")
        words += (
            [name] if value is True else [name, str(value)] if value not in (None, False) else []
        )
    return words


@task(
    help={
        "only": "the tests whose file, name or pytest expression this is, slow ones too",
        "all": "also what takes long: containers, faults, databases, browsers",
        "mutants": "break copies of the engine on purpose, and see that the tests notice",
    }
)
def test(_: Context, only: str | None = None, all: bool = False, mutants: bool = False) -> None:
    """Run the project's tests and the engine's quick ones; --all runs everything."""
    from lockstep.workspace import gate

    if mutants:
        return tool("python", "-m", "lockstep.tests.mutation", *given(only=only))
    # A process for each: the engine's tests have the examples for a project.
    if not only:
        tool("pytest", "tests")
        return tool("pytest", "lockstep/tests", *([] if all else ["-m", "not slow"]))
    matched = False
    for folder in ("tests", "lockstep/tests"):
        words = gate.matching(only, ROOT / folder) or ([] if matched else [folder, "-k", only])
        try:
            if words:
                tool("pytest", *words)
                matched = True
        except Exit as end:
            if end.code != 5:  # pytest's code for no test at all
                raise
    if not matched:
        raise Exit(f"error: --only: no test matches {only!r}; name a file or a test.", code=2)


@task(
    help={
        "full": "kill 500 times instead of 20",
        "write-claims": "put the table into lockstep/docs/claims.md",
    }
)
def prove(_: Context, full: bool = False, write_claims: bool = False) -> None:
    """Try every claim on this machine and print the table of them."""
    from lockstep.tests.claims import CLAIMS

    tests = sorted({f"lockstep/tests/{test}" for claim in CLAIMS for test in claim.tests})
    tool("pytest", *tests, *given(full=full, write_claims=write_claims))


@task
def lint(_: Context) -> None:
    """Check format, style and types, notebooks, Dockerfiles and the stack; print sizes."""
    from lockstep.ground import home
    from lockstep.workspace import gate

    checks = [
        ("black", "--check", "."),
        ("ruff", "check", "."),
        ("mypy",),
        ("python", "environment/hooks.py", "notebooks", *NOTEBOOKS),
        ("cfn-lint", "lockstep/sagemaker/stack.yaml"),
    ]
    if dockerfiles := [str(path) for path in ROOT.glob("docker/*Dockerfile")]:
        checks.append(("hadolint", *dockerfiles))
    failed = []
    for name, *words in checks:  # all of them, so that everything can be mended at once
        try:
            tool(name, *words)
        except Exit as end:
            if end.code >= 128:  # by a signal, such as Ctrl-C
                raise
            failed.append("notebooks" if name == "python" else name)
    print(gate.sizes(home.ENGINE, home.here().folder))
    if failed:
        raise Exit(f"lint: {', '.join(failed)} failed; `invoke format` mends what a tool can.", 1)


@task(name="format")
def format_(_: Context) -> None:
    """Bring the code into its one format, and notebooks and their scripts together."""
    if NOTEBOOKS:
        tool("jupytext", "--sync", "--quiet", *NOTEBOOKS)  # the newer of the two counts
    tool("ruff", "check", "--quiet", "--fix-only", ".")
    tool("black", "--quiet", ".")
    tool("python", "environment/hooks.py", "write-notebooks", *NOTEBOOKS)


@task(
    optional=["upgrade"],
    help={
        "base": "only pin the base image's newest digest",
        "upgrade": "move this package to its newest version, or all that the Pipfile does not pin",
    },
)
def lock(_: Context, base: bool = False, upgrade: str | None = None) -> None:
    """Lock the Pipfile; versions that satisfy it stay as they are."""
    if base:
        return engine("image", "base")
    relock(*given(upgrade=upgrade))


@task(
    help={
        "package": "its name, or NAME==VERSION; the newest version that fits if it has none",
        "dev": "for development only: not in the training and serving images",
    }
)
def add(_: Context, package: str, dev: bool = False) -> None:
    """Add a package to Pipfile and lock; other packages keep their versions."""
    relock(*given(add=package, dev=dev))


@task(help={"package": "a package of the Pipfile"})
def remove(_: Context, package: str) -> None:
    """Remove a package from Pipfile and lock, with what only it needed."""
    relock(*given(remove=package))


def relock(*words: str) -> None:
    """Write the lock; ./workbench installs it at its next call."""
    run(sys.executable, str(ROOT / "environment" / "lock.py"), *words)


@task(help={"gpu": "with torch for CUDA instead of the CPU"})
def wheelhouse(_: Context, gpu: bool = False) -> None:
    """Put every locked wheel into one archive, to install from without a network."""
    run(sys.executable, str(ROOT / "environment" / "wheelhouse.py"), *given(gpu=gpu))


@task(
    help={
        "port": "where it listens",
        "ip": "at which address; any but this machine's own lets others in who have the token",
        "in": "cpu or gpu: in that image, seen at this machine's own address",
    }
)
def notebook(_: Context, port: str = "8888", ip: str = "127.0.0.1", in_: str | None = None) -> None:
    """Start JupyterLab here, on this machine only; it prints its address with a token."""
    if in_:
        return engine("image", "lab", "--port", port, *given(gpu=in_ == "gpu"))
    tool(*lab(ip, _free(ip, port)))


def lab(ip: str, port: int) -> Sequence[str]:
    """The command of JupyterLab with this repository's settings, given in its root."""
    settings = "--config=environment/jupyter/config.py"
    root = ["--allow-root"] if os.geteuid() == 0 else []
    return ["jupyter", "lab", settings, f"--ip={ip}", f"--port={port}", *root]


def _free(ip: str, port: str) -> int:
    """The port, if we can listen there; JupyterLab would fail with a traceback."""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise Exit(f"error: --port: found {port!r}, expected a number from 1 to 65535", code=2)
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((ip, int(port)))
    except OSError as error:
        raise Exit(
            f"error: --port: {port} is not available ({error.strerror}), expected a free one; stop "
            "what listens there, or name another: invoke notebook --port N",
            code=2,
        ) from error
    return int(port)


own = [item for item in list(globals().values()) if isinstance(item, Task)]
namespace = Collection(*own, *verb_tasks(engine))
hand_over(engine, namespace, sys.argv[1:])
