"""Where, by whom and under what settings of the machine a run is made: no trace of it in the bits.

Each row takes several of them at once; together they hold every one that is named in the docs.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lockstep.tests.conftest import ROOT

WORDS = (
    "train",
    "digits",
    "--seed=42",
    "training.epochs=2",
    "training.checkpoint_every=3",
    "data.limit=300",
)
SAME = (
    "identity.json",
    "metrics.jsonl",
    "preprocess.json",
    "source.zip",
    "trace.bin",
    "weights.safetensors",
)
ONE_CPU = str(min(os.sched_getaffinity(0)))
ANOTHER_USER = ("unshare", "--user", "--map-user=1234", "--map-group=1234")


@dataclass(frozen=True)
class Row:
    """What one run is made under: a wrapping command, variables, and whether in another clone."""

    name: str
    wrapped: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    elsewhere: bool = False


ROWS = (
    Row(
        "more threads asked for, German, Tokyo, one loader",
        variables={
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "4"),
            **{"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8", "TZ": "Asia/Tokyo"},
            "PYTHONHASHSEED": "1",
        },
        settings=("training.loaders=1",),
    ),
    Row(
        "one CPU, nice, three loaders, C",
        ("taskset", "-c", ONE_CPU, "nice", "-n", "5"),
        {
            **{"OMP_DYNAMIC": "TRUE", "OMP_PROC_BIND": "TRUE", "OMP_SCHEDULE": "dynamic"},
            **{"MKL_DYNAMIC": "TRUE", "OMP_THREAD_LIMIT": "2", "LC_ALL": "C", "TZ": "UTC"},
            "PYTHONHASHSEED": "0",
        },
        ("training.loaders=3",),
    ),
    Row(
        "another clone, another home, strict umask, other hashes",
        ("sh", "-c", 'umask 077; exec "$@"', "sh"),
        {"LC_ALL": "C.UTF-8", "TZ": "America/Sao_Paulo", "PYTHONHASHSEED": "random"},
        elsewhere=True,
    ),
    Row(
        "another user, other kernels asked for",
        ANOTHER_USER,
        {
            **{"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
            **{"DNNL_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "AVX512", "USER": "someone"},
            **{"ONEDNN_DEFAULT_FPMATH_MODE": "BF16", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
        },
        ("training.loaders=1",),
    ),
)


def made_under(row: Row, folder: Path) -> tuple[str, dict[str, bytes]]:
    """Train under a row's settings: the name of the run and the content of its files."""
    folder.mkdir()
    runs, root, variables = folder / "runs", ROOT, os.environ | row.variables
    if row.elsewhere:
        root = folder / "another clone, größer"
        shutil.copytree(ROOT / "lockstep", root / "lockstep")
        shutil.copy(ROOT / "Pipfile.lock", root)
        variables["HOME"] = str(folder)
    words = [*row.wrapped, sys.executable, "-m", "lockstep", *WORDS, *row.settings]
    done = subprocess.run(
        [*words, "--runs", str(runs)], cwd=root, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, (row.name, done.stderr)
    (run,) = runs.iterdir()
    return run.name, {name: (run / name).read_bytes() for name in SAME}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    return made_under(Row("as it is"), tmp_path_factory.mktemp("plain") / "it")


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_neither_machine_nor_user_nor_settings_show_in_the_bits(
    tmp_path: Path, plain: tuple[str, dict[str, bytes]], row: Row
) -> None:
    (name, found), (wanted_name, wanted) = made_under(row, tmp_path / "it"), plain
    assert (name, [file for file in SAME if found[file] != wanted[file]]) == (wanted_name, [])
