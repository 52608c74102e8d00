"""Invoke tasks: each is a docstring and a line. ``invoke --list`` shows them."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from invoke import Context, Exit, task

ROOT = Path(__file__).parent
NOTEBOOKS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("notebooks/*.ipynb"))


def run(*command: str) -> None:
    """Run a command in the repository's root with our terminal; its exit code becomes ours."""
    from lockstep.ground.processes import follow_parent  # here: listing the tasks needs none of it

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
    """``python -m lockstep ...`` from wherever the user stands."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))
    run(sys.executable, "-m", "lockstep", *words)


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


def words_after(task: str) -> int:
    """How many words follow a task's name before its first option.

    invoke has no positional argument that may be left out: as many are declared as are given.
    """
    after = sys.argv[sys.argv.index(task) + 1 :] if task in sys.argv else []
    return len(list(takewhile(lambda word: not word.startswith("-"), after)))


@task(
    iterable=["set"],
    help={
        "set": "a setting, key=value; may be repeated",
        "workers": "processes that share each batch; default: as the recipe says, or one a core",
        "until": "stop after this step, saved",
        "in": "cpu or gpu: train in that image, with the run folder here",
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
    in_: str | None = None,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Start a run, go on with it, or report it if it is finished."""
    options = given(seed=seed, workers=workers, until=until, in_=in_, runs=runs, json=json)
    project("train", f"{model}/{recipe}", *set, *options)


@task(
    iterable=["set"],
    help={
        "trials": "how many in all; 20 unless told",
        "parallel": "how many at the same time",
        "batch": "how many are proposed together; 4 unless told",
        "storage": "postgresql://..., for several machines",
        "name": "of the recipe to write; tuned unless told",
        "set": "a setting of all trials, key=value; may be repeated",
    },
)
def tune(
    _: Context,
    seed: int = 0,
    model: str = "digits",
    recipe: str = "base",
    set: list[str] = [],
    trials: int | None = None,
    parallel: int | None = None,
    batch: int | None = None,
    storage: str | None = None,
    name: str | None = None,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Search for better settings; each trial is a run. The best becomes a recipe."""
    options = given(trials=trials, parallel=parallel, batch=batch, storage=storage, name=name)
    options = [*options, *given(seed=seed, runs=runs, json=json)]
    project("tune", f"{model}/{recipe}", *set, *options)


@task
def evaluate(_: Context, run: str, runs: str | None = None, json: bool = False) -> None:
    """Measure a run's weights on the test split again."""
    project("evaluate", run, *given(runs=runs, json=json))


@task(
    positional=["run", "input"][: max(1, words_after("predict"))],
    iterable=["file", "text"],
    help={
        "input": "a picture, a text or a CSV file",
        "file": "a picture or a CSV file; may be repeated",
        "text": "a text; may be repeated",
        "output": "a CSV file to write, with a row for each",
    },
)
def predict(
    _: Context,
    run: str,
    file: list[str],
    text: list[str],
    input: str | None = None,
    output: str | None = None,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Label files or texts with the model of a run."""
    words = [*([input] if input else []), *file, *text]
    project("predict", run, *words, *given(output=output, runs=runs, json=json))


@task(
    help={
        "host": "at which address; any but this machine's own demands LOCKSTEP_TOKEN",
        "onnx": "ONNX Runtime computes: faster, other last bits than in training",
    }
)
def serve(
    _: Context,
    run: str,
    host: str = "127.0.0.1",
    port: str = "8000",
    onnx: bool = False,
    runs: str | None = None,
) -> None:
    """Answer over HTTP with the model of a run or a bundle."""
    project("serve", run, *given(host=host, port=port, onnx=onnx, runs=runs))


@task(
    help={
        "output": "the file to write; default: model.tar.gz in the run's folder",
        "key": "private key to sign with; default: LOCKSTEP_SIGNING_KEY, else unsigned",
        "onnx": "with model.onnx, compared with torch",
    }
)
def bundle(
    _: Context,
    run: str,
    output: str | None = None,
    key: str | None = None,
    onnx: bool = False,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Write a finished run as model.tar.gz, which SageMaker's PyTorch containers can serve."""
    project("bundle", run, *given(output=output, key=key, onnx=onnx, runs=runs, json=json))


@task(
    help={
        "to": "a folder or s3://BUCKET/PREFIX; default: LOCKSTEP_WEIGHTS",
        "key": "private key to sign with; default: LOCKSTEP_SIGNING_KEY, else unsigned",
        "onnx": "with model.onnx, compared with torch",
    }
)
def publish(
    _: Context,
    run: str,
    to: str | None = None,
    key: str | None = None,
    onnx: bool = False,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Put a finished run's weights into a storage, under a version that never changes."""
    project("publish", run, *given(to=to, key=key, onnx=onnx, runs=runs, json=json))


@task(
    positional=[] if "--delete" in sys.argv else ["run"],
    iterable=["set"],
    help={
        "bucket": "where the bundle is put, of the endpoint's region",
        "stack": "the CloudFormation stack, and the endpoint that it makes",
        "image": "the serving image in ECR; default: LOCKSTEP_ECR_IMAGE",
        "key": "private key to sign with; default: LOCKSTEP_SIGNING_KEY, else unsigned",
        "onnx": "with model.onnx, compared with torch",
        "set": "a parameter of lockstep/sagemaker/stack.yaml, InstanceCount=2; may be repeated",
        "dry-run": "only tell what would change",
        "delete": "delete the stack; the bundles in the bucket stay",
    },
)
def deploy(
    _: Context,
    stack: str,
    run: str | None = None,
    bucket: str | None = None,
    image: str | None = None,
    key: str | None = None,
    onnx: bool = False,
    set: list[str] = [],
    dry_run: bool = False,
    delete: bool = False,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Put a finished run onto SageMaker, or take it off."""
    words = [*([run] if run else []), *(f"--set={one}" for one in set)]
    words += given(stack=stack, bucket=bucket, image=image, key=key, onnx=onnx)
    project("deploy", *words, *given(dry_run=dry_run, delete=delete, runs=runs, json=json))


@task(help={"output": "the folder to write them to; keys unless told"})
def keys(_: Context, output: str | None = None, json: bool = False) -> None:
    """Make a pair of keys, to sign bundles and to check their signatures."""
    project("keys", *given(output=output, json=json))


@task(help={"output": "the folder for parts list and licences; audit unless told"})
def audit(_: Context, output: str | None = None, json: bool = False) -> None:
    """Check the lock for advisories and the files for secrets, list parts and licences."""
    project("audit", *given(output=output, json=json))


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


@task(help={"source": "print the source's unified diff"})
def diff(
    _: Context, a: str, b: str, source: bool = False, runs: str | None = None, json: bool = False
) -> None:
    """Show two runs side by side: settings, source, data, machine, metrics; what differs."""
    project("diff", a, b, *given(source=source, runs=runs, json=json))


@task(help={"steps": "train only so far", "in": "cpu or gpu: in that image"})
def reproduce(
    _: Context,
    run: str,
    steps: int | None = None,
    in_: str | None = None,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Train a run again from its recorded source and compare bit by bit."""
    project("reproduce", run, *given(steps=steps, in_=in_, runs=runs, json=json))


@task(
    positional=["action", "name"][: max(1, words_after("image"))],
    help={
        "action": "build, shell or push",
        "name": "where to push: HOST/NAME",
        "gpu": "with torch for CUDA",
        "stage": "what to build or push: develop, train, serve or sagemaker",
        "offline": "install from wheelhouse/ alone, with no network",
    },
)
def image(
    _: Context,
    action: str,
    name: str | None = None,
    gpu: bool = False,
    stage: str = "train",
    offline: bool = False,
    json: bool = False,
) -> None:
    """Build an image of this tree, open a shell in one, or push one."""
    words = [action, *([name] if name else [])]
    project("image", *words, *given(gpu=gpu, stage=stage, offline=offline, json=json))


@task(
    positional=["action", "what", "other"][: words_after("data")],
    iterable=["text", "numbers"],
    help={
        "action": "list, fetch, add, verify, push, pull or diff",
        "what": "NAME or NAME@VERSION, for add a path; for diff either, twice",
        "name": "under which a data set is added",
        "label": "column of a table that is to be learnt; --text, --numbers: those to learn from",
        "id": "column of a table by which a row is known when it changes",
        "size": "HEIGHTxWIDTH to which pictures are scaled",
        "to": "where to push: a folder or s3://BUCKET/PREFIX; --from: where to pull",
    },
)
def data(
    _: Context,
    action: str | None = None,
    what: str | None = None,
    other: str | None = None,
    name: str | None = None,
    label: str | None = None,
    text: list[str] = [],
    numbers: list[str] = [],
    id: str | None = None,
    size: str | None = None,
    rgb: bool = False,
    validation: str | None = None,
    test: str | None = None,
    title: str | None = None,
    licence: str | None = None,
    origin: str | None = None,
    to: str | None = None,
    from_: str | None = None,
    json: bool = False,
) -> None:
    """Data sets: list, fetch, add, verify, push, pull, diff."""
    columns = [word for one in text for word in ("--text", one)]
    columns += [word for one in numbers for word in ("--numbers", one)]
    options = given(name=name, label=label, id=id, size=size, rgb=rgb, validation=validation,
                    test=test, title=title, licence=licence, origin=origin, to=to, from_=from_,
                    json=json)  # fmt: skip
    project("data", *filter(None, (action, what, other)), *columns, *options)


@task(help={"full": "apparel/base as well", "gpu": "the GPU image as well, on the CPU"})
def parity(_: Context, full: bool = False, gpu: bool = False, json: bool = False) -> None:
    """Train on the host, in the image and in the dev container, and compare bit by bit."""
    project("parity", *given(full=full, gpu=gpu, json=json))


@task(
    iterable=["where"],
    help={
        "model": "only of this model",
        "where": "only where this holds, as test.accuracy>0.92; may be repeated",
        "sort": "by a metric or setting, downwards after a -: --sort=-test.accuracy",
    },
)
def runs(
    _: Context,
    model: str | None = None,
    where: list[str] = [],
    sort: str | None = None,
    runs: str | None = None,
    all: bool = False,
    json: bool = False,
) -> None:
    """List the runs, newest first, or those that conditions choose, in another order."""
    words = [f"--where={condition}" for condition in where]
    project("runs", *words, *given(model=model, sort=sort, runs=runs, all=all, json=json))


@task(iterable=["set"], help={"set": "a budget besides, test.accuracy='>= 0.95'"})
def accept(
    _: Context, run: str, set: list[str] = [], runs: str | None = None, json: bool = False
) -> None:
    """Measure a run against the budgets of its recipe."""
    project("accept", run, *(f"--set={one}" for one in set), *given(runs=runs, json=json))


@task
def checkout(
    _: Context, run: str, folder: str, runs: str | None = None, json: bool = False
) -> None:
    """Put a run's source and weights, as they were, into a new folder."""
    project("checkout", run, folder, *given(runs=runs, json=json))


@task(
    positional=[] if "--purge" in sys.argv else ["run"],  # or else all are meant
    iterable=["also"],
    help={
        "run": "the run",
        "also": "another run; may be repeated",
        "yes": "do not ask",
        "restore": "bring back from the trash",
        "purge": "remove from the trash for good: --run RUN, or all",
    },
)
def delete(
    _: Context,
    run: str | None = None,
    also: list[str] = [],
    yes: bool = False,
    restore: bool = False,
    purge: bool = False,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Move runs into the trash, bring them back from there, or remove them for good."""
    words = given(yes=yes, restore=restore, purge=purge, runs=runs, json=json)
    project("delete", *([run] if run else []), *also, *words)


@task(help={"sync": "send what is missing (the default)", "follow": "until no run is running"})
def track(
    _: Context,
    sync: bool = False,
    follow: bool = False,
    runs: str | None = None,
    json: bool = False,
) -> None:
    """Send to MLflow what it lacks of the runs, each thing exactly once."""
    project("track", *given(sync=sync, follow=follow, runs=runs, json=json))


@task(help={"port": "where it listens"})
def ui(_: Context, port: str = "5000", runs: str | None = None) -> None:
    """Show the runs in MLflow's page, on this machine only."""
    project("ui", *given(port=port, runs=runs))


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


@task(help={"like": "the example to copy; digits unless another is named"})
def new_model(_: Context, name: str, like: str | None = None) -> None:
    """Write a model folder that trains, copied from an example."""
    project("new-model", name, *given(like=like))


@task
def schema(_: Context, json: bool = False) -> None:
    """Write the JSON schemas of recipes and catalog files into .vscode, for the editor."""
    project("schema", *given(json=json))


@task(
    positional=["path"][: words_after("init")],
    help={"path": "a new folder; without it, this clone is renamed", "name": "of your package"},
)
def init(_: Context, path: str | None = None, name: str | None = None, json: bool = False) -> None:
    """Create your own tree in a new folder, or give this clone's package your own name."""
    project("init", *([path] if path else []), *given(name=name, json=json))


@task(
    positional=["tag"][: words_after("upgrade")],
    help={
        "tag": "the engine's version; the newest unless another is named",
        "from": "the engine's repository; default: [tool.lockstep] upstream of pyproject.toml",
        "dry-run": "only show what would change",
        "no-lock": "leave Pipfile.lock to a later `invoke lock`",
        "no-test": "neither compare bits nor run the contract tests",
    },
)
def upgrade(
    _: Context,
    tag: str | None = None,
    from_: str | None = None,
    dry_run: bool = False,
    no_lock: bool = False,
    no_test: bool = False,
    json: bool = False,
) -> None:
    """Take a newer engine: replace lockstep/, merge what both sides edit, compare bits, test."""
    options = given(from_=from_, dry_run=dry_run, no_lock=no_lock, no_test=no_test, json=json)
    project("upgrade", *([tag] if tag else []), *options)


@task(
    help={
        "only": "the tests whose file, name or pytest expression this is, slow ones too",
        "all": "also what takes long: containers, faults, databases, browsers",
    }
)
def test(_: Context, only: str | None = None, all: bool = False) -> None:
    """Run the project's tests and the engine's quick ones; --all runs everything."""
    from lockstep.workspace import gate

    # A process for each: the engine's tests have the examples for a project.
    if not only:
        tool("pytest", "tests")
        return tool("pytest", "lockstep/tests", *([] if all else ["-m", "not slow"]))
    matched = False
    for folder in ("tests", "lockstep/tests"):
        words = gate.chosen(only, ROOT / folder) or ([] if matched else [folder, "-k", only])
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

    tool("black", "--check", "--quiet", ".")
    tool("ruff", "check", "--quiet", ".")
    tool("mypy")
    tool("python", "environment/hooks.py", "notebooks", *NOTEBOOKS)
    if dockerfiles := [str(path) for path in ROOT.glob("docker/*Dockerfile")]:
        tool("hadolint", *dockerfiles)
    tool("cfn-lint", "lockstep/sagemaker/stack.yaml")
    print(gate.sizes(home.ENGINE, home.here().folder))


@task(name="format")
def format_(_: Context) -> None:
    """Bring the code into its one format, and notebooks and their scripts together."""
    if NOTEBOOKS:
        tool("jupytext", "--sync", "--quiet", *NOTEBOOKS)  # the newer of the two counts
    tool("ruff", "check", "--quiet", "--fix", "--select", "I", ".")
    tool("black", "--quiet", ".")
    tool("python", "environment/hooks.py", "write-notebooks", *NOTEBOOKS)


@task(help={"base": "only pin the base image's newest digest"})
def lock(_: Context, base: bool = False) -> None:
    """Lock all categories of the Pipfile anew."""
    if base:
        return project("image", "base")
    run(sys.executable, str(ROOT / "environment" / "lock.py"))


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
        return project("image", "lab", "--port", port, *given(gpu=in_ == "gpu"))
    tool(*lab(ip, _free(ip, port)))


def lab(ip: str, port: int) -> Sequence[str]:
    """The command of JupyterLab with this repository's settings, given in its root."""
    settings = "--config=environment/jupyter/config.py"
    root = ["--allow-root"] if os.geteuid() == 0 else []
    return ["jupyter", "lab", settings, f"--ip={ip}", f"--port={port}", *root]


def _free(ip: str, port: str) -> int:
    """The port, if we can listen there; JupyterLab would tell in a traceback that we cannot."""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise Exit(f"error: --port: found {port!r}, wanted a number from 1 to 65535", code=2)
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((ip, int(port)))
    except OSError as error:
        raise Exit(
            f"error: --port: {port} is not to be had ({error.strerror}), wanted a free one; stop "
            "what listens there, or name another: invoke notebook --port N",
            code=2,
        ) from error
    return int(port)
