"""Runs the catalogue of mutants: ``python -m lockstep.tests.mutation [--only WORD] [--json]``.

Each mutant gets a copy of the tree in a temporary folder; this one is never edited. It is caught if
one of its tests fails there. All of these tests are run without an edit first and must pass.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from lockstep.ground.processes import follow_parent
from lockstep.tests.mutants import HARMLESS, LAWS, MUTANTS, ROOT, Mutant

TIME_LIMIT = 240  # seconds for the tests of one mutant; most take 5
AT_ONCE = 2
_COPIED = ("lockstep", "environment", "pyproject.toml", "Pipfile", "Pipfile.lock", "setup.py")
_PASSED, _FAILED = 0, 1  # of pytest's exit codes
_RUNNING: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: ``caught``, ``survived``, or why nobody knows."""

    mutant: Mutant
    result: str
    seconds: float

    @property
    def expected(self) -> bool:
        """Whether it is as it must be: a harmless edit survives, any other is caught."""
        return self.result == ("survived" if self.mutant in HARMLESS else "caught")


@contextmanager
def copy_of_tree() -> Iterator[Path]:
    """Copy what the engine's tests need to a temporary folder, with its times and its bytecode."""
    with tempfile.TemporaryDirectory(prefix="lockstep-mutant-") as name:
        for item in _COPIED:
            if (ROOT / item).is_dir():
                shutil.copytree(ROOT / item, Path(name, item), symlinks=True)
            elif (ROOT / item).exists():
                shutil.copy2(ROOT / item, name)
        yield Path(name)


def run_tests(
    tree: Path,
    tests: Sequence[str],
    *,
    slow: bool,
    limit: float = TIME_LIMIT,
    output: IO[str] | int = subprocess.DEVNULL,
) -> int:
    """Run tests of a tree in a process of its own; return pytest's exit code.

    Raises subprocess.TimeoutExpired after ``limit`` seconds.
    """
    words = [f"lockstep/tests/{test}" for test in tests]
    words += ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--basetemp", str(tree / "tmp")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    # A session of its own, so that what a test has started can be ended with it.
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *words, "-m", "slow or not slow" if slow else "not slow"],
        cwd=tree,
        env=kept | {"PYTHONPATH": str(tree)},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=follow_parent,
    )
    _RUNNING.add(process)
    try:
        return process.wait(limit)
    finally:
        _RUNNING.remove(process)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def outcome(mutant: Mutant) -> Outcome:
    """Make a mutant in a copy of the tree and run its tests there."""
    began = time.monotonic()
    with copy_of_tree() as tree:
        (tree / "lockstep" / mutant.path).write_text(mutant.edited(tree))
        try:
            code = run_tests(tree, mutant.tests, slow=mutant.slow)
        except subprocess.TimeoutExpired:
            result = f"no result within {TIME_LIMIT} s"
        else:
            other = f"no result: pytest ended with code {code}"
            result = {_PASSED: "survived", _FAILED: "caught"}.get(code, other)
    return Outcome(mutant, result, time.monotonic() - began)


def without_edit(mutants: Sequence[Mutant]) -> list[str]:
    """Run all tests of some mutants in a copy without an edit; return a line for what fails."""
    problems = []
    for slow in (False, True):
        tests = sorted({test for one in mutants if one.slow == slow for test in one.tests})
        with copy_of_tree() as tree, tempfile.TemporaryFile("w+") as output:
            limit = 4 * TIME_LIMIT
            if tests and (code := run_tests(tree, tests, slow=slow, limit=limit, output=output)):
                output.seek(0)
                failed = [line.strip() for line in output if line.startswith(("FAILED", "ERROR"))]
                problems.append(
                    f"the tests do not pass without an edit (pytest ended with code {code}): "
                    f"{'; '.join(failed) or 'see'} pytest -n 0 "
                    f"{' '.join(f'lockstep/tests/{test}' for test in tests)}"
                )
    return problems


def main(words: Sequence[str] | None = None) -> int:
    """Run the catalogue; return 0 if all mutants are caught and the harmless edits survive."""
    parser = argparse.ArgumentParser(prog="invoke test --mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="WORD", help="mutants with this in the name")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    asked = parser.parse_args(words)
    chosen = [one for one in (*MUTANTS, *HARMLESS) if asked.only in f"{one.name} {one.path}"]
    if not chosen:
        print(f"error: --only: no mutant has {asked.only!r} in its name or path", file=sys.stderr)
        return 2
    say = partial(print, file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for mutant in chosen:
            mutant.edited(ROOT)
    except ValueError as error:
        say(f"error: {error}")
        return 2
    say(f"{len(chosen)} edits; running their tests without an edit first")
    began = time.monotonic()
    try:
        problems = without_edit(chosen)
    except subprocess.TimeoutExpired as error:
        problems = [f"the tests without an edit took longer than {error.timeout:.0f} s"]
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    if problems:
        say(f"error: {problems[0]}")
        return 2
    outcomes = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for done in pool.map(outcome, chosen):
                outcomes.append(done)
                place, sign = f"{len(outcomes)}/{len(chosen)}", "" if done.expected else "  WRONG"
                say(f"{place:>7} {done.seconds:4.0f} s  {done.result}: {done.mutant.name}{sign}")
        except KeyboardInterrupt:
            for process in [*_RUNNING]:
                os.killpg(process.pid, signal.SIGKILL)
            say("interrupted")
            return 130
    if asked.json:
        print(json.dumps([_plain(one) for one in outcomes], indent=2))
    else:
        print(table(outcomes))
    say(f"took {time.monotonic() - began:.0f} s")
    return 0 if all(one.expected for one in outcomes) else 1


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a table by law, and a line that counts them."""
    lines = ["| law | broken engine | tests that must notice | result |", "|---|---|---|---|"]
    for one in sorted(outcomes, key=lambda one: (one.mutant in HARMLESS, one.mutant.law)):
        law = "none: harmless" if one.mutant in HARMLESS else LAWS[one.mutant.law]
        lines.append(f"| {law} | {one.mutant.name} | {' '.join(one.mutant.tests)} | {one.result} |")
    broken = [one for one in outcomes if one.mutant not in HARMLESS]
    caught = [one for one in broken if one.expected]
    quick = [one for one in caught if not one.mutant.slow]
    lines += [
        "",
        f"{len(caught)} of {len(broken)} broken engines were caught, {len(quick)} of them by the "
        f"fast gate; {sum(one.expected for one in outcomes) - len(caught)} of "
        f"{len(outcomes) - len(broken)} harmless edits survived",
    ]
    return "\n".join(lines)


def _plain(one: Outcome) -> dict[str, object]:
    return {
        "name": one.mutant.name,
        "path": f"lockstep/{one.mutant.path}",
        "law": LAWS[one.mutant.law],
        "tests": list(one.mutant.tests),
        "slow": one.mutant.slow,
        "result": one.result,
        "expected": one.expected,
        "seconds": round(one.seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
