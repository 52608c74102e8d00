"""Workers don't show: not their number, not its changes, not their deaths, not their machines."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT, command

# Batch norm, flips, and a last batch of 3 samples, which leaves 5 of the 8 shards empty.
WORDS = (
    "train",
    "apparel/base",
    "--seed=42",
    "model.widths=[2,4]",
    "model.blocks=[1]",
    "training.epochs=3",
    "training.batch_size=100",
    "training.checkpoint_every=2",
    "training.evaluation_batch=2000",
    "data.limit=1003",
)
SAME = ("weights.safetensors", "preprocess.json", "trace.bin", "metrics.jsonl", "identity.json")
LAST = 33
MODULE = [sys.executable, "-m", "lockstep"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run made by one worker, undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    done = command(*WORDS, "--workers=1", "--runs", str(folder))
    assert done.returncode == 0, done.stderr
    return the_run(folder)


def the_run(runs: Path) -> Run:
    (folder,) = runs.glob("apparel-*")
    return Run(folder)


def assert_same(run: Run, other: Run) -> None:
    for name in SAME:
        assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    receipts = run.receipt, other.receipt
    assert receipts[0] and receipts[1]
    assert receipts[0]["results"] == receipts[1]["results"]


def start(runs: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MODULE, *WORDS, *more, "--runs", str(runs)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(runs: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of that step or a later one is there."""
    while process.poll() is None:
        names = [path.name for path in runs.glob("apparel-*/checkpoints/*")]
        if any(name.isdigit() and int(name) >= step for name in names):
            return
        time.sleep(0.002)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train, below the one that was started and its torchrun."""

    def children(pid: int) -> list[int]:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    return [worker for launcher in children(process.pid) for worker in children(launcher)]


def test_any_number_of_workers_changed_in_mid_run_gives_the_same_bits(
    tmp_path: Path, alone: Run
) -> None:
    for workers, until in ((8, 5), (1, 9), (3, 14), (4, 20), (6, 27), (2, 0)):
        done = command(*WORDS, f"--workers={workers}", f"--until={until}", "--runs", str(tmp_path))
        assert done.returncode == 0, done.stderr
        stopped = f"stopped at step {until}, as --until says"
        assert (stopped in done.stdout) == (until > 0)
    assert_same(the_run(tmp_path), alone)


def test_a_worker_that_is_killed_is_replaced_and_the_run_goes_on(
    tmp_path: Path, alone: Run
) -> None:
    process = start(tmp_path, "--workers=2")
    wait_for_step(tmp_path, 6, process)
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    _, said = process.communicate()
    assert (process.returncode, "resumes at step" in said, "Traceback" in said) == (0, True, False)
    assert_same(the_run(tmp_path), alone)


def test_a_signal_reaches_all_workers_and_stops_them_after_the_same_step(
    tmp_path: Path, alone: Run
) -> None:
    process = start(tmp_path, "--workers=2")
    wait_for_step(tmp_path, 4, process)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C on a terminal
    _, said = process.communicate()
    step = max(int(path.name) for path in the_run(tmp_path).folder.glob("checkpoints/0*"))
    assert process.returncode == 130
    assert f"stopped at step {step} of {LAST}, saved; run the same command to resume" in said
    assert "Traceback" not in said
    assert command(*WORDS, "--workers=1", "--runs", str(tmp_path)).returncode == 0
    assert_same(the_run(tmp_path), alone)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_reads_the_progress_may_go_away(workers: str, alone: Run, tmp_path: Path) -> None:
    with start(tmp_path, f"--workers={workers}") as process:
        assert process.stderr
        process.stderr.readline()
        process.stderr.close()
        assert process.wait(120) == 0
    assert_same(the_run(tmp_path), alone)


def test_a_mistake_in_the_workers_is_told_once_in_one_line(tmp_path: Path) -> None:
    done = command(*WORDS, "--workers=2", "training.lr=1e30", "--runs", str(tmp_path))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors), "Traceback" in done.stderr) == (2, 1, False), done.stderr
    assert "expected a finite number; the last good checkpoint is kept" in errors[0]


def test_more_workers_than_shards_are_refused() -> None:
    done = command("train", "digits/base", "--workers=16")
    assert (done.returncode, "8 shards" in done.stderr) == (2, True), done.stderr


def test_workers_that_would_compute_something_else_are_refused(tmp_path: Path) -> None:
    """As with another commit on one of the machines; here it is another learning rate."""
    each = f'exec "$@" training.lr=0.00${{LOCAL_RANK}}1 --runs {tmp_path}'
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    torchrun += ["--standalone", "--local-addr=localhost", "--no-python"]
    done = subprocess.run(
        [*torchrun, "sh", "-c", each, "sh", *MODULE, *WORDS],
        cwd=ROOT,
        env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "error: worker 1: its experiment differs from the first worker's" in done.stderr
    assert the_run(tmp_path).receipt is None


@pytest.fixture
def hosts() -> Iterator[Callable[[int], list[str]]]:
    """Two hosts with a cable between them: how to run a command on number 0 or 1."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        assert "LOCKSTEP_CI" not in os.environ, "CI has root and iproute2"
        pytest.skip("network namespaces want root and iproute2")
    names = [f"lockstep{os.getpid()}-{host}" for host in (0, 1)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    for name in names:
        ip("netns", "add", name)
    cable = ["type", "veth", "peer", "name", "cable", "netns", names[1]]
    ip("link", "add", "cable", "netns", names[0], *cable)
    for (host, name), link in product(enumerate(names), ("lo", "cable")):
        ip("-n", name, "link", "set", link, "up")
        if link == "cable":
            ip("-n", name, "addr", "add", f"10.77.0.{host + 1}/24", "dev", link)
    try:
        yield lambda host: ["ip", "netns", "exec", names[host]]
    finally:
        for name in names:
            ip("netns", "del", name)


def test_of_two_machines_one_is_cut_off_and_the_other_ends_the_run(
    tmp_path: Path, alone: Run, hosts: Callable[[int], list[str]]
) -> None:
    """As in docs/clusters.md, with shorter patience: each host has one worker."""
    variables = {
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": "cable",
        "LOCKSTEP_PATIENCE": "15",
    }
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=10.77.0.1:29400", "--max-restarts=3"]
    patience = "keep_alive_interval=1,keep_alive_max_attempt=2,last_call_timeout=2"

    def torchrun(host: int) -> subprocess.Popen[str]:
        agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2"]
        agent += ["--nproc-per-node=1", f"--local-addr=10.77.0.{host + 1}", *meeting]
        # Told, because both hosts go by the name of this machine.
        agent += [f"--rdzv-conf=is_host={1 - host},{patience}"]
        return subprocess.Popen(
            [*hosts(host), *agent, "--module", "lockstep", *WORDS, "--runs", str(tmp_path)],
            cwd=ROOT,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    both = torchrun(0), torchrun(1)
    wait_for_step(tmp_path, 6, both[0])
    subprocess.run([*hosts(1), "ip", "link", "set", "cable", "down"], check=True)
    said, _ = both[0].communicate(timeout=240)
    assert both[0].returncode == 0, said
    assert "resumes at step" in said
    both[1].kill()
    both[1].communicate()
    assert_same(the_run(tmp_path), alone)
    assert the_run(tmp_path).finished_receipt()["timing"]["workers"] == 1
