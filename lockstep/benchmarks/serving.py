"""Requests a second over HTTP: Lockstep beside a plain FastAPI endpoint and LitServe."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from lockstep.benchmarks.measure import ROOT, Table, folder, in_turn, middle, ratio
from lockstep.tests.services import free_ports

CLIENTS = (1, 8, 64)
SECONDS = 10
PEERS = ("litserve==0.2.19", "fastapi[standard]==0.165.0")
NAMES = {
    "lockstep": "Lockstep",
    "native": "Lockstep, profile native",
    "onnx": "Lockstep, `--onnx`",
    "def": "FastAPI + torch, `def`",
    "async def": "FastAPI + torch, `async def`",
    "litserve": "LitServe, batches of 64",
}
RECIPE = ("apparel/base", "training.epochs=1", "data.limit=3000", "--seed", "1")


def serving(rounds: int) -> Table:
    """Requests a second and the 99th percentile, by number of clients that post a PNG."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk: is not here; expected Debian's (apt-get install wrk).")
    late: dict[str, list[float]] = {}
    with folder() as home:
        run, picture = trained(home / "portable")
        native, _ = trained(home / "native", "training.profile=native")
        python = peers(home)

        def rate(name: str, clients: int) -> float:
            form = name not in ("lockstep", "native", "onnx")
            with server(name, native if name == "native" else run, python) as port:
                posted(port, picture, clients, multipart=form, seconds=1)  # to warm up
                found, p99 = posted(port, picture, clients, multipart=form)
            late.setdefault(_case(name, clients), []).append(p99)
            return found

        cases: dict[str, Callable[[], float]] = {
            _case(name, clients): partial(rate, name, clients)
            for name in NAMES
            for clients in CLIENTS
        }
        found = in_turn(cases, rounds)
    rows = []
    for clients in CLIENTS:
        for name, told in NAMES.items():
            case = _case(name, clients)
            median, low, high = middle(found[case])
            times = ratio(found, _case("lockstep", clients), case)
            p99 = middle(late[case])[0]
            rows.append([told, str(clients), f"{median:,.0f}", f"{low:,.0f} to {high:,.0f}",
                         f"{p99:.1f}", f"{times:.2f}"])  # fmt: skip
    head = ["apparel/base", "clients", "requests/s", "quartiles", "p99, ms", "Lockstep is times"]
    return Table("serving", head, rows, {"requests": found, "p99": late})


def mixed(minutes: int) -> Table:
    """Memory of a server under all kinds of requests, broken ones among them, minute by minute."""
    from lockstep.tests.serving.broken import Vandal, status_of

    statuses: Counter[int] = Counter()
    sizes: list[float] = []
    with folder() as home:
        run, picture = trained(home)
        with server("lockstep", run, Path(sys.executable)) as port:
            vandal, pid = Vandal([picture], seed=7), _listener(port)
            for _ in range(minutes):
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    posted(port, picture, 16, seconds=4)
                    statuses.update(status_of(port, vandal.request()) for _ in range(50))
                sizes.append(_memory(pid))
                print(f"{len(sizes)} min: {sizes[-1]:.1f} MB", file=sys.stderr, flush=True)
    third = sizes[minutes // 3 - 1] if minutes > 2 else sizes[0]
    rows = [[f"{minutes} min", f"{sizes[0]:.1f}", f"{third:.1f}", f"{sizes[-1]:.1f}",
             f"{max(sizes):.1f}", f"{sum(statuses.values()):,}", str(statuses[500])]]  # fmt: skip
    head = ["mixed load", "MB after 1 min", f"after {max(1, minutes // 3)} min", "at the end"]
    head += ["at most", "broken", "answered 500"]
    return Table("mixed", head, rows, {"megabytes": sizes, "statuses": dict(statuses)})


def fuzz(count: int) -> Table:
    """How often a server gave each status to broken requests."""
    from lockstep.tests.serving.broken import fuzz as asked

    with folder() as home:
        run, picture = trained(home)
        with server("lockstep", run, Path(sys.executable)) as port:
            before = _memory(_listener(port))
            found = asked(port, count, [picture], seed=3)
            after = _memory(_listener(port))
    statuses = Counter[int]()
    for (_, status), times in found.items():
        statuses[status] += times
    told = ", ".join(
        f"{status or 'hung up'}: {times:,}" for status, times in sorted(statuses.items())
    )
    rows = [[f"{count:,}", told, str(statuses[500]), f"{before:.0f} to {after:.0f}"]]
    head = ["broken requests", "answered", "500", "memory, MB"]
    return Table("fuzz", head, rows, {" ".join(map(str, key)): n for key, n in found.items()})


def trained(home: Path, *settings: str) -> tuple[Path, bytes]:
    """A run of the model to be served, and a picture as a PNG."""
    words = [sys.executable, "-m", "lockstep", "train", *RECIPE, *settings]
    words += ["--runs", str(home / "runs")]
    subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    (run,) = (home / "runs").glob("apparel-*/")
    from lockstep.answers import golden
    from lockstep.ground.pictures import drawn

    content = json.loads((run / "golden.json").read_bytes())
    file = io.BytesIO()
    drawn(golden.examples(content)[0]).save(file, "PNG")
    return run, file.getvalue()


def peers(home: Path) -> Path:
    """The Python of an environment of their own for the others; torch is that of the lock."""
    venv.create(home / "peers", with_pip=True)
    python = home / "peers" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
    (site,) = (home / "peers" / "lib").glob("python*/site-packages")
    (site / "lock.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@contextmanager
def server(name: str, run: Path, python: Path) -> Iterator[int]:
    """The port at which one of them serves the run."""
    (port,) = free_ports(1)
    ours = [sys.executable, "-m", "lockstep", "serve", str(run), "--port", str(port)]
    words = {
        "lockstep": ours,
        "native": ours,
        "onnx": [*ours, "--onnx"],
        "def": [str(python), "-m", "lockstep.benchmarks.peers", "def", str(run), str(port)],
        "async def": [str(python), "-m", "lockstep.benchmarks.peers", "async", str(run), str(port)],
        "litserve": [str(python), "-m", "lockstep.benchmarks.litserver", str(run), str(port)],
    }[name]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # with the processes that it starts itself
    )
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def posted(
    port: int, picture: bytes, clients: int, *, multipart: bool = False, seconds: int = SECONDS
) -> tuple[float, float]:
    """Requests a second and the 99th percentile in milliseconds, of good answers only."""
    kind, body = "image/png", picture
    if multipart:
        kind = "multipart/form-data; boundary=x"
        head = 'Content-Disposition: form-data; name="file"; filename="a.png"'
        body = f"--x\r\n{head}\r\nContent-Type: image/png\r\n\r\n".encode() + picture
        body += b"\r\n--x--\r\n"
    with folder() as place:
        escaped = "".join(f"\\{byte:03d}" for byte in body)
        script = place / "post.lua"
        script.write_text(
            f'wrk.method = "POST"\nwrk.body = "{escaped}"\nwrk.headers["Content-Type"] = "{kind}"\n'
        )
        words = ["wrk", "--latency", "--threads=1", f"--connections={clients}"]
        words += [f"--duration={seconds}s", "--timeout=10s", f"--script={script}"]
        words.append(f"http://127.0.0.1:{port}/predict")
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    if bad := re.search(r"Non-2xx.*", told):
        raise SystemExit(f"port {port}: {bad[0]}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    late = re.search(r"99%\s+([\d.]+)(us|ms|s)", told)
    assert rate and late, told
    return float(rate[1]), float(late[1]) * {"us": 0.001, "ms": 1, "s": 1000}[late[2]]


def _wait_for(port: int, process: "subprocess.Popen[Any]") -> None:
    """Until it answers anything at all."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=60)
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"port {port}: no server came up")


def _listener(port: int) -> int:
    """The process that listens at a port."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) == f"socket:[{inode}]":
                return int(link.parts[2])
        except OSError:
            continue
    raise SystemExit(f"port {port}: nobody listens there")


def _memory(pid: int) -> float:
    """What a process has in memory, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1000


def _case(name: str, clients: int) -> str:
    return f"{name}, {clients}"
