"""The view of runs in MLflow, with its real servers: what it shows is what the files say."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from lockstep.ground.files import held
from lockstep.ground.home import here
from lockstep.ground.watch import Watch
from lockstep.records import source, trace
from lockstep.records.run import Run, runs
from lockstep.tests.conftest import ROOT, command, plain_environment
from lockstep.tests.services import S3, Postgres, free_ports, running
from lockstep.tracking import view
from lockstep.tracking.export import is_logged

pytestmark = pytest.mark.slow  # MLflow in processes of its own

os.environ |= view.VARIABLES  # this process asks MLflow, too
ON = {"LOCKSTEP_TRACK": "on", "MLFLOW_TRACKING_URI": ""}
BRIEF = ("train", "digits/base", "training.epochs=2", "training.checkpoint_every=5")
# Long enough to be met in training.
LONG = ("train", "digits/base", "training.epochs=30", "training.checkpoint_every=20")
ALONE = ("training.workers=1", "--seed", "42")
FILES = {"experiment.yaml", "identity.json", "preprocess.json", "receipt.json", "report.html",
         "weights.safetensors"}  # fmt: skip


@dataclass
class Server:
    """An MLflow server on PostgreSQL and S3, which can be killed and started again."""

    words: list[str]
    address: str
    variables: dict[str, str]
    log: Path
    _open: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        self._child = self._open.enter_context(
            running(self.words, self.log, self._answers, env=os.environ | self.variables)
        )

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
            return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL to the server and what it started, which is in its session."""
        os.killpg(self._child.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self._open.close()

    @property
    def on(self) -> dict[str, str]:
        return ON | {"MLFLOW_TRACKING_URI": self.address}


@pytest.fixture
def server(postgres: Postgres, s3: S3, tmp_path: Path) -> Iterator[Server]:
    (port,) = free_ports(1)
    words = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}"]
    database = postgres.database().replace("postgresql:", "postgresql+psycopg2:")
    words += ["--workers=1", f"--backend-store-uri={database}"]
    words += [f"--artifacts-destination=s3://{s3.bucket()}"]
    variables = s3.variables | view.VARIABLES | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    made = Server(words, f"http://127.0.0.1:{port}", variables, tmp_path / "server.log")
    made.start()
    yield made
    made.close()


def start(*words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lockstep", *words],
        cwd=ROOT,
        env=plain_environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(folder: Path, holds: Callable[[], Any]) -> Any:
    """What ``holds`` gives as soon as it is something; the follower of a folder is to hurry.

    Beside other tests it would wait for minutes: it takes only what nobody else wants.
    """
    patience = time.monotonic() + 240
    while not (found := holds()):
        assert time.monotonic() < patience, "in vain"
        for pid in followers(folder):
            with suppress(OSError):  # it has ended, or only root may
                os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, pid, 0)
                Path(f"/proc/{pid}/autogroup").write_text("0")
        time.sleep(0.3)
    return found


@contextmanager
def suspended(training: "subprocess.Popen[str]", folder: Path) -> Iterator[None]:
    """Have a training wait after its next checkpoint, and go on afterwards."""
    before = set(folder.glob("*/checkpoints/0*"))
    while not set(folder.glob("*/checkpoints/0*")) - before:
        assert training.poll() is None
        time.sleep(0.01)
    training.send_signal(signal.SIGSTOP)
    yield
    training.send_signal(signal.SIGCONT)


def followers(folder: Path) -> list[int]:
    """The processes that follow a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--follow" in words and os.fsencode(folder) in words:
            found.append(int(path.parent.name))
    return found


def client(address: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=address)


def seen(address: str) -> list[Any]:
    """All runs that MLflow has."""
    asked = client(address)
    experiments = [found.experiment_id for found in asked.search_experiments()]
    return list(asked.search_runs(experiments))


def history(address: str, run: Any) -> dict[str, list[tuple[int, float | None]]]:
    """Every row of metrics that MLflow has of a run: a doubled one would be there twice."""
    asked = client(address)
    return {
        name: sorted((m.step, m.value) for m in asked.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def written(run: Run) -> dict[str, list[tuple[int, float | None]]]:
    """The same, from the files of a finished run."""
    receipt, rows = run.receipt, run.metrics()
    assert receipt
    losses = enumerate(map(float, trace.read(run.folder / "trace.bin")["loss"]), 1)
    found: dict[str, list[tuple[int, float | None]]] = {}
    found |= {"train/loss": [(step, loss) for step, loss in losses if is_logged(step)]}
    found["train/epoch_loss"] = [(row["step"], row["train"]["loss"]) for row in rows]
    found["train/rate"] = [(row["step"], row["rate"]) for row in rows]
    results = receipt["results"]
    for name in ("accuracy", "f1", "loss"):
        found[f"validation/{name}"] = [(row["step"], row["validation"][name]) for row in rows]
        found[f"test/{name}"] = [(results["kept_step"], results["metrics"]["test"][name])]
    return found


def assert_shown(address: str, folder: Path, tmp_path: Path) -> None:
    """MLflow has the one finished run of a folder, and has it exactly as its files say."""
    (run,), (found,) = runs(folder), seen(address)
    receipt, identity = run.receipt, run.identity
    assert receipt and identity
    assert (found.info.run_name, found.info.status) == (run.name, "FINISHED")
    assert history(address, found) == written(run)
    params = {"name": "digits", "recipe": "base", "seed": "42"}
    for section in ("data", "model", "training"):
        for name, value in run.parts["experiment"][section].items():
            text = value if isinstance(value, str) else json.dumps(value)
            params[f"{section}.{name}"] = text
    assert found.data.params == params
    tags = {name.partition(".")[2]: value for name, value in found.data.tags.items()}
    assert tags["identity"] == identity["digest"]
    assert tags["data_sha256"] == run.parts["data"]
    assert tags["weights_sha256"] == receipt["results"]["weights_sha256"]
    assert tags["level"] == receipt["level"]["promise"]
    assert tags["source.git.commit"] == receipt["environment"]["git"]["commit"]
    place = tmp_path / "artifacts"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    got = Path(client(address).download_artifacts(found.info.run_id, "", str(place)))
    assert {path.name: path.read_bytes() for path in got.iterdir()} == {
        name: (run.folder / name).read_bytes() for name in FILES
    }


@pytest.mark.slow
def test_a_killed_run_is_killed_there_and_goes_on_as_the_same_run_to_what_its_files_say(
    server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    words = (*LONG, *ALONE, "--runs", str(folder))
    training = start(*words, **server.on)
    with suspended(training, folder):
        (first,) = until(folder, lambda: [run for run in seen(server.address) if run.data.metrics])
        assert first.info.status == "RUNNING"
        training.kill()
    training.communicate()
    until(folder, lambda: not followers(folder))
    (killed,) = seen(server.address)
    stopped = int(runs(folder)[0].state.split()[-1])
    steps = [step for step, _ in history(server.address, killed)["train/loss"]]
    wanted = [step for step in range(1, stopped + 1) if is_logged(step)]
    assert (killed.info.status, steps) == ("KILLED", wanted)

    done = command(*words, **server.on)
    assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
    until(folder, lambda: not followers(folder))
    assert_shown(server.address, folder, tmp_path)
    assert [run.info.run_id for run in seen(server.address)] == [first.info.run_id]
    again = command("track", "--json", "--runs", str(folder), **server.on)
    assert json.loads(again.stdout) == {"address": server.address, "sent": []}


@pytest.mark.slow
def test_a_server_that_dies_costs_training_nothing_and_gets_each_thing_once_when_it_is_back(
    server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    training = start(*LONG, *ALONE, "--runs", str(folder), **server.on)
    with suspended(training, folder):
        until(folder, lambda: [run for run in seen(server.address) if run.data.metrics])
        server.kill()
    with suspended(training, folder):
        until(folder, lambda: (folder / ".tracking" / "problem").exists())
    _, said = training.communicate(timeout=120)
    last = said.splitlines()[-1]
    assert (training.returncode, last.startswith("warning: not in MLflow yet")) == (
        0,
        True,
    ), said
    assert "`invoke track --sync` sends what is missing" in last
    server.start()
    syncs = [start("track", "--runs", str(folder), **server.on) for _ in range(2)]
    assert [(one.communicate()[1], one.returncode)[1] for one in syncs] == [0, 0]
    assert_shown(server.address, folder, tmp_path)
    until(folder, lambda: not followers(folder))
    assert_shown(server.address, folder, tmp_path)
    assert not (folder / ".tracking" / "problem").exists()

    off = command(*LONG, *ALONE, "--runs", str(tmp_path / "off"), "--json")
    (run,) = runs(folder)
    assert run.receipt
    assert json.loads(off.stdout)["results"] == run.receipt["results"]
    assert not (tmp_path / "off" / ".tracking").exists()


@pytest.mark.slow
def test_machines_that_send_the_same_run_at_once_make_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs"
    assert command(*BRIEF, *ALONE, "--runs", str(folder)).returncode == 0
    others = [tmp_path / str(number) for number in range(6)]
    for other in others:
        shutil.copytree(folder, other)  # with other times of the files
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    for _ in range(3):
        with ThreadPoolExecutor(len(others)) as threads:
            together = Barrier(len(others))

            def send(other: Path, together: Barrier = together) -> list[str]:
                together.wait()
                return view.sync(other, Watch())

            list(threads.map(send, others))  # raises what one of them was refused
        assert [view.sync(other, Watch()) for other in others] == [[]] * len(others)
        assert_shown(server.address, folder, tmp_path)
        client(server.address).delete_run(seen(server.address)[0].info.run_id)


@pytest.mark.slow
def test_without_a_server_it_is_a_file_beside_the_runs_and_a_sync_may_be_killed(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "runs"
    assert command(*BRIEF, *ALONE, "--runs", str(folder)).returncode == 0
    for tenths in (15, 20, 25, 30, 35, 40):  # from before the tables are made to the end
        one = start("track", "--runs", str(folder), **ON)
        time.sleep(tenths / 10)
        one.kill()
        one.communicate()
    done = command("track", "--runs", str(folder), **ON)
    assert done.returncode == 0, done.stderr
    assert_shown(f"sqlite:///{folder / 'mlflow.db'}", folder, tmp_path)
    assert [run.name for run in runs(folder)] == [runs(folder)[0].name]
    # A second address gets all of it.
    second = f"sqlite:///{tmp_path / 'second.db'}"
    assert command("track", "--runs", str(folder), **ON | {"MLFLOW_TRACKING_URI": second}
                   ).stdout == f"1 run sent to {second}\n"  # fmt: skip


@pytest.mark.slow
def test_a_folder_has_one_follower_which_ends_when_nothing_runs_there(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    stopped = command(*BRIEF, *ALONE, "--until", "10", "--runs", str(folder))
    assert stopped.returncode == 0, stopped.stderr
    address = f"sqlite:///{folder / 'mlflow.db'}"
    (run,) = runs(folder)
    with held(run.folder, print):  # as who trains it holds it
        first = start("track", "--follow", "--runs", str(folder), **ON)
        until(tmp_path, lambda: os.getpriority(os.PRIO_PROCESS, first.pid) == 19)
        until(folder, lambda: (folder / "mlflow.db").exists() and seen(address))
        second = command("track", "--follow", "--runs", str(folder), **ON)
        assert (second.returncode, first.poll()) == (0, None)
        until(folder, lambda: seen(address)[0].info.status == "RUNNING")
    first.communicate(timeout=60)
    assert (first.returncode, seen(address)[0].info.status) == (0, "KILLED")


def test_a_dead_server_is_reported_in_one_line_and_training_ends_well(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    address = f"http://user:hush@127.0.0.1:{port}"  # pragma: allowlist secret
    dead = ON | {"MLFLOW_TRACKING_URI": address}
    folder = tmp_path / "runs"
    done = command(*BRIEF, *ALONE, "--runs", str(folder), **dead)
    told = f"http://127.0.0.1:{port}: no answer (Connection refused), expected an MLflow server"
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, last.partition(";")[0]) == (
        0,
        f"warning: not in MLflow yet: {told}",
    )
    sync = command("track", "--sync", "--runs", str(folder), **dead)
    assert (sync.returncode, sync.stderr.count("\n")) == (2, 1)
    assert sync.stderr.startswith(f"error: {told}")
    assert followers(folder) != []  # it tries again, until there is nothing left to send
    shutil.rmtree(folder)
    until(folder, lambda: not followers(folder))
    assert not folder.exists()


def test_a_run_that_was_altered_is_named_and_the_others_are_sent(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for seed in ("1", "2"):
        stopped = command(*BRIEF, "training.workers=1", "--seed", seed, "--until", "5",
                          "--runs", str(folder))  # fmt: skip
        assert stopped.returncode == 0, stopped.stderr
    first, second = runs(folder)
    (first.folder / "identity.json").write_text("{")
    done = command("track", "--json", "--runs", str(folder), **ON)
    assert (done.returncode, json.loads(done.stdout)["sent"]) == (0, [second.name])
    assert f"warning: {first.folder / 'identity.json'}: not readable as JSON" in done.stderr


def test_the_process_that_trains_never_loads_mlflow_and_the_identity_knows_nothing_of_it(
    tmp_path: Path,
) -> None:
    words = [*BRIEF, *ALONE, "--until", "5", "--runs", str(tmp_path / "runs")]
    code = f"import sys; from lockstep.cli import main; main({words!r})"
    code += "; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=plain_environment() | ON,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    until(tmp_path / "runs", lambda: not followers(tmp_path / "runs"))
    files = source.of_making(here(), "digits")
    assert [name for name in files if "tracking" in name] == []


def test_the_switch_is_on_or_off(tmp_path: Path) -> None:
    done = command(*BRIEF, "--runs", str(tmp_path), LOCKSTEP_TRACK="no")
    assert (done.returncode, done.stderr) == (
        2,
        "error: LOCKSTEP_TRACK: found 'no', expected on or off.\n",
    )


def test_of_a_million_steps_some_thousand_are_sent_and_of_the_first_thousand_each() -> None:
    sent = [step for step in range(1, 10**6 + 1) if is_logged(step)]
    assert (sent[:1024], len(sent)) == ([*range(1, 1025)], 1024 + 9 * 512 + 464)
