"""The story of a script's run: command -> watched process -> identity -> folder -> receipt."""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lockstep.ground import environment, wheels
from lockstep.ground.digests import digest_of, readable_json
from lockstep.ground.errors import RunError
from lockstep.ground.files import (
    flush_folder,
    held,
    remove_abandoned,
    write_atomically,
    write_errors,
)
from lockstep.ground.place import Place
from lockstep.ground.processes import follow_parent
from lockstep.records import source
from lockstep.records.identity import identity
from lockstep.records.receipt import NAME, seal
from lockstep.records.run import FAILURE, Run
from lockstep.records.script import (
    LOG,
    OUTPUTS,
    SCHEMA,
    SCRIPT,
    Output,
    Parts,
    Results,
    Script,
    metrics_in,
)
from lockstep.script.command import Program
from lockstep.script.watching import (
    NOTES,
    SOURCE,
    Surroundings,
    Watched,
    files_below,
    ignored,
    watched,
)

COPIED = 1 << 28  # bytes; of a larger output the run has the digest only
_SMALL = 1 << 20  # bytes; a smaller input that git does not ignore is kept with the source
PROMISE = "same bits on this machine"


@dataclass(frozen=True)
class Done:
    """What came of a program: its exit code, its run, and an earlier run of the same identity.

    ``differing`` are the outputs that differ from those of the earlier run; if none does, the
    earlier run is the run. A program that failed as an earlier one has no run of its own.
    """

    code: int
    run: Run
    earlier: Run | None
    differing: list[str]


def run_script(
    program: Program,
    place: Place,
    say: Callable[[str], None],
    out: BinaryIO | None = None,
    confined: Sequence[Path] = (),
) -> Done:
    """Run a program to its end, and keep what it depended on and what it wrote.

    What it prints goes to ``out`` (default: our output). ``confined`` are the only folders in which
    it can write. Raises WriteError if the run cannot be kept.
    """
    with _folder(place.runs, say) as part:
        apart = [place.runs.absolute(), place.data.absolute()]
        before, began = files_below(program.base, apart), time.monotonic()
        environment.git()  # remembered now, because people commit while a program runs
        code = _execute(program, part, out, confined)
        seconds = time.monotonic() - began
        where = Surroundings(program.base, [part])
        seen = watched(part, before, where, apart, place.data)
        _write(program, part, seen, code, seconds)
        return _named(program, part, place.runs, code)


@contextmanager
def _folder(runs: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """A folder beside the runs, which bears no run's name; gone afterwards if it was not renamed.

    After SIGKILL it stays, until it is removed here the next time.
    """
    with write_errors(runs):
        runs.mkdir(parents=True, exist_ok=True)
        for left in runs.glob(".script-*.part"):
            remove_abandoned(left)
        part = Path(tempfile.mkdtemp(prefix=".script-", suffix=".new", dir=runs))
        part.chmod(0o755)
    with held(part, say):
        part = part.rename(part.with_suffix(".part"))
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _execute(program: Program, part: Path, out: BinaryIO | None, confined: Sequence[Path]) -> int:
    """Run a program with our terminal, keep what it prints; return its exit code.

    Ctrl-C reaches it as well as us: it decides what comes of it. SIGTERM is handed on.
    """
    child = subprocess.Popen(
        [sys.executable, *program.words],
        cwd=program.folder,
        env=program.variables(part, confined),
        stdin=subprocess.DEVNULL,  # what decides bits must be a file
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=follow_parent,
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminated = signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    try:
        with write_errors(part), (part / LOG).open("wb") as log:
            _forward(child, log, out or sys.stdout.buffer)
        code = child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, terminated)
    return code if code >= 0 else 128 - code


def _forward(child: "subprocess.Popen[bytes]", log: BinaryIO, out: BinaryIO) -> None:
    """Hand on what a program prints as it comes, and write it to the log."""
    assert child.stdout and child.stderr
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, out)
        selector.register(child.stderr, selectors.EVENT_READ, sys.stderr.buffer)
        while selector.get_map():
            for key, _ in selector.select():
                if not (content := os.read(key.fd, 1 << 16)):
                    selector.unregister(key.fileobj)
                    continue
                log.write(content)
                log.flush()
                try:
                    key.data.write(content)
                    key.data.flush()
                except BrokenPipeError:  # the reader is gone, which is no reason to end a program
                    os.dup2(os.open(os.devnull, os.O_WRONLY), key.data.fileno())


def _write(program: Program, part: Path, seen: Watched, code: int, seconds: float) -> None:
    """Write all files of the run but its name."""
    small = _small_inputs(program.base, seen.inputs)
    parts = _parts(program, seen)
    identifier = identity(parts)
    archive = source.archive(small | seen.source)
    contents = {
        SCRIPT: readable_json(
            {
                "name": program.name,
                "command": parts["command"],
                "repository": str(program.base),
                "folders": seen.folders,
                "paths": program.recorded_paths(),
            }
        ),
        "source.zip": archive,
        "parts.json": readable_json(parts),
        "identity.json": readable_json(identifier),
    }
    for name, content in contents.items():
        write_atomically(part / name, content)
    if code:
        reason = _reason(part / LOG, code)
        write_atomically(part / FAILURE, readable_json({"reason": reason, "exit_code": code}))
    outputs = {name: _kept(program.base / name, part / OUTPUTS / name) for name in seen.outputs}
    if not code:
        results: Results = {
            "outputs": outputs,
            "metrics": _metrics(program, outputs),
            "source_sha256": digest_of(archive),
            "log_sha256": digest_of(part / LOG),
        }
        receipt = {
            "schema": SCHEMA,
            "run": f"script-{program.name}-s{program.seed}-{identifier['digest'][:8]}",
            "identity": identifier,
            "environment": environment.facts(program.threads, environment.torch_version()),
            "results": results,
            "timing": {
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "seconds": round(seconds, 3),
            },
            "level": {"promise": PROMISE, "lowered": seen.reasons},
        }
        write_atomically(part / NAME, seal(receipt))
    (part / NOTES).unlink(missing_ok=True)
    shutil.rmtree(part / SOURCE, ignore_errors=True)


def _parts(program: Program, seen: Watched) -> Parts:
    """All that decides the bits, by the parts of the identity."""
    try:
        digests = source.digests(seen.source)
    except RunError:  # a syntax error, by which the program failed
        digests = source.raw_digests(seen.source)
    torch = environment.torch_category(environment.installed())
    locked = environment.packages("default", "develop", torch)
    return {
        "schema": SCHEMA,
        "command": program.recorded(),
        "source": digests,
        "inputs": seen.inputs,
        "packages": wheels.as_identity(seen.packages, locked.locked),
        "python": environment.language(),
        "profile": {"name": "native", "device": "cpu", "cpu": environment.cpu()["model"]},
    }


def _small_inputs(base: Path, inputs: dict[str, str]) -> dict[str, bytes]:
    """Path to content of the small inputs that belong to the repository, such as configurations."""
    names = [name for name in inputs if not name.startswith(os.sep)]
    names = [name for name in names if (base / name).is_file()]
    names = [name for name in names if (base / name).stat().st_size < _SMALL]
    contents = {name: (base / name).read_bytes() for name in {*names} - ignored(base, names)}
    return {name: c for name, c in contents.items() if digest_of(c) == inputs[name]}


def _kept(path: Path, copy: Path) -> Output:
    """Copy an output, unless it is large; return what it is."""
    size = path.stat().st_size
    if size > COPIED:
        return {"sha256": digest_of(path), "bytes": size, "kept": False}
    with write_errors(copy):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        flush_folder(copy)  # or file: the system makes no difference
    return {"sha256": digest_of(copy), "bytes": copy.stat().st_size, "kept": True}


def _metrics(program: Program, outputs: dict[str, Output]) -> dict[str, float]:
    """The numbers of the ``metrics.json`` that the program wrote: in its folder, or the first."""
    here = (program.folder.relative_to(program.base) / "metrics.json").as_posix()
    names = [name for name in outputs if name.rpartition("/")[2] == "metrics.json"]
    names.sort(key=lambda name: (name != here, name))
    return metrics_in((program.base / names[0]).read_bytes()) if names else {}


def _reason(log: Path, code: int) -> str:
    """Why a program failed, in one line: a signal, its exception, or what it printed last."""
    if code > 128:
        names = {number.value: number.name for number in signal.Signals}
        return f"ended by {names.get(code - 128, f'signal {code - 128}')}"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - (1 << 16)))
        text = file.read().decode(errors="replace")
    _, traceback, raised = text.rpartition("Traceback (most recent call last):\n")
    lines = [line for line in raised.splitlines() if line.strip()]
    if traceback:
        lines = [line for line in lines if line[0] != " "][:1]
    return " ".join(lines[-1].split()) if lines else f"exit code {code}"


def _named(program: Program, part: Path, runs: Path, code: int) -> Done:
    """Give the run its name, unless an earlier run of the same identity has the same bits."""
    digest = Script(part).identity["digest"]
    with write_errors(runs), held(runs, lambda _: None):
        earlier = _earlier(runs, digest)
        differing = []
        if earlier:
            differing = differing_outputs(earlier, Script(part)) if not code else []
            if code or not differing:
                return Done(code, earlier, earlier, [])
        final = runs / f"script-{program.name}-s{program.seed}-{digest[:8]}"
        if (final / FAILURE).exists() and not (final / NAME).exists():
            shutil.rmtree(final)  # the same program failed before
        base, number = final, 1
        while final.exists():
            number += 1
            final = base.with_name(f"{base.name}~{number}")
        flush_folder(part)
        os.rename(part, final)
        flush_folder(runs)
    return Done(code, Run(final), earlier, differing)


def _earlier(runs: Path, digest: str) -> Run | None:
    """The first finished run of an identity."""
    for folder in sorted(runs.glob(f"script-*-{digest[:8]}")):
        script = Script(folder)
        try:
            if script.receipt and script.identity["digest"] == digest:
                return Run(folder)
        except RunError:
            continue  # altered: `invoke runs` says so
    return None


def differing_outputs(earlier: Run, now: Script) -> list[str]:
    """The names of the outputs that are not the same in two finished runs."""
    one, other = (
        script.finished_receipt()["results"]["outputs"] for script in (Script(earlier.folder), now)
    )
    names = sorted(one.keys() | other.keys())
    return [
        name
        for name in names
        if name not in one or name not in other or one[name]["sha256"] != other[name]["sha256"]
    ]
