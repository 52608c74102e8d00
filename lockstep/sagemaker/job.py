"""SageMaker's training container: settings and data from /opt/ml, the model to it.

The contract: docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html. The folder
is ``LOCKSTEP_ML`` where it is another one, as in tests.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lockstep.ground.errors import LockstepError, SettingError
from lockstep.ground.files import write_atomically
from lockstep.ground.processes import follow_parent

_PORT = 29400
_STOPPED = 128 + signal.SIGTERM  # the exit code of who was asked to stop, and saved


class Job:
    """A training job as it stands in the container: settings, hosts, data channels, folders."""

    def __init__(self, ml: Path):
        self.ml, config = ml, ml / "input" / "config"
        self.hyperparameters = {
            # The service hands all of them on as text; its own have a name that begins so.
            name: str(value)
            for name, value in _json(config / "hyperparameters.json").items()
            if not name.startswith(("sagemaker_", "_"))
        }
        resources = _json(config / "resourceconfig.json")
        self.hosts: list[str] = sorted(resources.get("hosts") or ["localhost"])
        self.host: str = resources.get("current_host") or self.hosts[0]

    @property
    def recipe(self) -> str:
        """What is trained, MODEL/RECIPE."""
        given = self.hyperparameters
        return f"{given.get('model', 'digits')}/{given.get('recipe', 'base')}"

    @property
    def words(self) -> list[str]:
        """The words of ``python -m lockstep`` that train it."""
        given = dict(self.hyperparameters)
        seed = given.pop("seed", "0")
        given.pop("model", None), given.pop("recipe", None)
        if plain := [name for name in given if "." not in name]:
            raise SettingError(
                f"hyperparameter {plain[0]}: not a known name, expected model, recipe, seed or a "
                "setting as training.lr (`invoke config` lists them)."
            )
        settings = [f"{name}={value}" for name, value in sorted(given.items())]
        return ["train", self.recipe, *settings, "--seed", seed, "--runs", str(self.runs), "--json"]

    @property
    def runs(self) -> Path:
        """The runs, where the service keeps what a spot interruption must not lose."""
        return self.ml / "checkpoints"

    @property
    def is_first(self) -> bool:
        """Whether this host keeps the run's files."""
        return self.host == self.hosts[0]

    def variables(self) -> dict[str, str]:
        """The environment of the training: each channel is a place to look for data."""
        channels = sorted(path for path in (self.ml / "input" / "data").glob("*") if path.is_dir())
        places = [*map(str, channels), os.environ.get("LOCKSTEP_DATA_PATH", "")]
        return os.environ | {
            "LOCKSTEP_DATA_PATH": os.pathsep.join(filter(None, places)),
            "LOCKSTEP_DATA": os.environ.get("LOCKSTEP_DATA") or str(self.ml / "prepared"),
            "LOCKSTEP_TRACK": "off",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120",  # the seconds that the service gives to save
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def command(self) -> list[str]:
        """What this host runs: the training alone, or with others under torchrun."""
        if len(self.hosts) == 1:
            return [sys.executable, "-m", "lockstep", *self.words]
        first = self.hosts[0]
        here = int(self.is_first)
        torchrun = ["--nnodes", str(len(self.hosts)), "--nproc-per-node", "1"]
        torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint={first}:{_PORT}", "--rdzv-id=job"]
        torchrun += [f"--rdzv-conf=is_host={here}", f"--local-addr={self.host}"]
        launch = [sys.executable, "-m", "lockstep.training.launch", *torchrun]
        return [*launch, "--module", "lockstep", *self.words]


def train(ml: Path) -> int:
    """Train what the job asks for and leave the model in ``ml/model``; the exit code.

    An interrupted job resumes from its checkpoints. Failures are written to
    ``ml/output/failure``, of which the service shows the first 1,024 characters.
    """
    try:
        job = Job(ml)
        job.runs.mkdir(parents=True, exist_ok=True)
        with first_ends_first(job):
            code, receipt, said = _run(job)
            if code == 0 and job.is_first:
                hand_over(job.runs / json.loads(receipt)["run"], ml / "model")
    except LockstepError as error:
        code, said = 2, f"error: {error}"
        print(said, file=sys.stderr)
    if code not in (0, _STOPPED):
        (ml / "output").mkdir(parents=True, exist_ok=True)
        (ml / "output" / "failure").write_text(said[:1024])
        return 1  # the service wants any code but 0
    return code


@contextmanager
def first_ends_first(job: Job) -> Iterator[None]:
    """Keep the other hosts until the first has handed the model over.

    Where the end of one container stops all others, as in the SDK's local mode, the first would be
    stopped while it does.
    """
    if len(job.hosts) == 1:
        yield
    elif job.is_first:
        with socket.create_server((job.host, _PORT + 1), backlog=len(job.hosts)):
            yield  # connections wait in the backlog, and end with this
    else:
        yield
        with suppress(OSError), socket.create_connection((job.hosts[0], _PORT + 1), 60) as first:
            first.settimeout(60)
            first.recv(1)


def _run(job: Job) -> tuple[int, str, str]:
    """Train with our standard error; the exit code, the receipt, and what to tell of a failure."""
    # A file, not a second pipe: one that is not read while the other is would fill up and block.
    with TemporaryFile("w+") as printed:
        child = subprocess.Popen(
            job.command(),
            env=job.variables(),
            stdout=printed,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=follow_parent,
        )
        asked: list[int] = []

        def hand_on(number: int, _: object) -> None:
            asked.append(number)
            child.send_signal(number)

        signal.signal(signal.SIGTERM, hand_on)
        errors: list[str] = []
        last: deque[str] = deque(maxlen=10)
        assert child.stderr
        for line in child.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            (errors if line.startswith("error: ") else last).append(line)
        if (code := child.wait()) < 0:
            errors.append(
                f"error: training: was killed by signal {-code}; out of memory, perhaps.\n"
            )
        printed.seek(0)
        receipt = printed.read()
    # The launcher of several hosts ends as if its workers, who have saved, had failed.
    return _STOPPED if code and asked else code, receipt, "".join(errors or last)


def hand_over(run: Path, model: Path) -> None:
    """Copy the run without its checkpoints to the folder that the service packs."""
    model.mkdir(parents=True, exist_ok=True)
    for path in run.iterdir():
        if path.is_file() and not path.is_symlink():
            write_atomically(model / path.name, path.read_bytes())


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise SettingError(f"{path}: is no JSON ({error}).") from error
    if not isinstance(content, dict):
        raise SettingError(f"{path}: holds {type(content).__name__}, expected an object.")
    return content
