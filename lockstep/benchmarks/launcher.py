"""Measures ./workbench: its overhead over the task, and a full set-up with uv and pipenv.

python benchmarks/launcher.py [--task=TASK] [--calls N] [--cold] [--json]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def seconds(command: list[str], folder: Path = ROOT, **variables: str) -> float:
    started = time.perf_counter()
    environment = os.environ | variables
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def warm(task: str, calls: int) -> dict[str, float]:
    """Return medians over interleaved calls, so that other load affects both alike."""
    launcher, itself = [str(ROOT / "workbench"), task], [str(ROOT / ".venv/bin/invoke"), task]
    times: dict[str, list[float]] = {"launcher": [], "itself": []}
    for name, command in [("launcher", launcher), ("itself", itself)] * (calls + 1):
        times[name].append(seconds(command))
    with_it, without = (statistics.median(each[1:]) for each in times.values())
    pairs = zip(times["launcher"][1:], times["itself"][1:], strict=True)
    return {
        "workbench_ms": with_it * 1000,
        "invoke_ms": without * 1000,
        "overhead_ms": statistics.median(a - b for a, b in pairs) * 1000,
        "ratio": with_it / without,
    }


def cold() -> dict[str, float]:
    """Measure a full set-up in a copy of the needed files; the index may be near or far."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for name, installer, cache in (
            ("uv, empty cache", "uv", "cache"),
            ("uv, full cache", "uv", "cache"),
            ("pipenv", "pipenv", "none"),
        ):
            tree = Path(place, name.replace(",", ""))
            shutil.copytree(ROOT / "environment", tree / "environment")
            for file in ("workbench", "tasks.py", "Pipfile", "Pipfile.lock"):
                shutil.copy(ROOT / file, tree)
            variables = {
                "LOCKSTEP_INSTALLER": installer,
                "UV_CACHE_DIR": str(Path(place, cache)),
                "LOCKSTEP_PYTHON": sys.executable,
            }
            found[f"{name} (s)"] = seconds(["./workbench"], tree, **variables)
            shutil.rmtree(tree)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="--list", help="as in --task=runs")
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--cold", action="store_true", help="also set up from nothing: minutes")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    measured = warm(given.task, given.calls)
    if given.cold:
        measured |= cold()
    if given.json:
        print(json.dumps(measured, indent=4))
    else:
        for name, value in measured.items():
            print(f"{name:24} {value:8.2f}")


if __name__ == "__main__":
    main()
