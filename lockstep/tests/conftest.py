"""What the tests share: prepared data, brief runs, and the commands as people give them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

os.environ["LOCKSTEP_PROJECT"] = "lockstep.examples"  # whatever the team's project holds

from lockstep.ground import profiles

profiles.enter("portable")  # before anything imports torch

from lockstep import cli  # noqa: E402
from lockstep.config.experiment import Experiment  # noqa: E402
from lockstep.config.recipe import resolve  # noqa: E402
from lockstep.ground import home  # noqa: E402
from lockstep.ground.place import Place  # noqa: E402
from lockstep.ground.watch import Watch  # noqa: E402
from lockstep.records.run import Run  # noqa: E402
from lockstep.tests.claims import pytest_addoption, pytest_terminal_summary  # noqa: E402, F401
from lockstep.tests.projects import bring  # noqa: E402, F401
from lockstep.tests.services import aws, postgres, s3  # noqa: E402, F401
from lockstep.tests.trees import house, index, tree  # noqa: E402, F401

ENGINE = Path(__file__).parents[1]
ROOT = ENGINE.parent
Call = Callable[..., tuple[int, str, str]]
# Files whose tests share what takes long to make, or a port: one process runs all of it. (The mark
# xdist_group would say so, but pytest-xdist 3.8 with pytest 9.2 passes over it: its issue 1386.)
TOGETHER = (
    "lockstep/tests/data/test_transfer.py",
    "lockstep/tests/examples/test_trials.py",  # one run of each example for all of its trials
    "lockstep/tests/publishing/test_bundle.py",
    "lockstep/tests/sagemaker/test_container.py",  # its hosts meet at one port
    "lockstep/tests/sagemaker/test_stack.py",
    "lockstep/tests/sagemaker/test_transformer.py",
    "lockstep/tests/publishing/test_weights.py",
    "lockstep/tests/faults/test_workers.py",
    "lockstep/tests/test_any_cpu.py",
    "lockstep/tests/test_docs.py",
    "lockstep/tests/test_jupyterlab.py",
    "lockstep/tests/test_lock.py",
    "lockstep/tests/test_notebooks.py",
    "lockstep/tests/test_services.py",
    "lockstep/tests/test_storage.py",
    "lockstep/tests/test_tracking.py",
    "lockstep/tests/test_tracking_page.py",
    "lockstep/tests/tuning/test_study.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the engine's own marks, and let no warning pass."""
    for kind, lines in {
        "markers": (
            "slow: left out by `invoke test`, run by `invoke test --all`",
            "gpu: needs a GPU; runs where there is one",
        ),
        "filterwarnings": (
            "error",
            "ignore::DeprecationWarning",
            "ignore:This DataLoader will create",  # fewer cores than loaders
        ),
    }.items():
        for line in lines:
            config.addinivalue_line(kind, line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse to run a project's tests under the examples, which this process has for a project."""
    if others := [item.nodeid for item in items if not item.path.is_relative_to(ENGINE)]:
        raise pytest.UsageError(
            f"{others[0]}: found tests of the project among those of the engine, expected a run of "
            "pytest for each; `invoke test` does so."
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out whole files of ``TOGETHER`` first, then the other tests one by one."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.startswith("lockstep/tests/containers/"):  # one engine, one checkout, one port
                return "lockstep/tests/containers"
            return file if file in TOGETHER else nodeid

    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of prepared data for all tests and the commands that they start."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    os.environ["LOCKSTEP_DATA"] = str(shared / "data")
    os.environ.pop("LOCKSTEP_RUNS", None)
    beside = ROOT.parent / "shared" / "data"  # files that are in no mirror of ours nor in git
    if beside.is_dir():
        os.environ.setdefault("LOCKSTEP_DATA_PATH", str(beside))
    os.environ["LOCKSTEP_TRACK"] = "off"  # hundreds of trainings; those of tracking switch it on
    # Where bytecode is not to be written, each of hundreds of processes would compile torch anew.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = str(shared / "bytecode")
    return shared / "data"


# Examples that need a library that no lock has: tests/adapters brings it along.
ADAPTED = {"hf": "transformers", "lit": "lightning"}
EXAMPLES = [name for name in home.examples().models() if name not in ADAPTED]


def mostly_slow(cases: Sequence[Any], quick: int = 1) -> list[Any]:
    """Parameters of which the first are in the quick suite, and all in ``invoke test --all``."""
    rest = (case if isinstance(case, tuple) else (case,) for case in cases[quick:])
    return [*cases[:quick], *(pytest.param(*case, marks=pytest.mark.slow) for case in rest)]


@pytest.fixture
def place(tmp_path: Path, data_folder: Path) -> Place:
    """An empty runs folder, and the shared data."""
    return Place(tmp_path / "runs", data_folder)


def experiment(recipe: str = "digits/base", *overrides: str, seed: int = 42) -> Experiment:
    """A recipe made brief: 2 epochs of 300 examples, in 8 shards."""
    brief = ("training.epochs=2", "data.limit=300", "training.checkpoint_every=3")
    return full_experiment(recipe, *brief, *overrides, seed=seed)


def full_experiment(recipe: str, *overrides: str, seed: int = 42) -> Experiment:
    """A recipe as it is, but for the overrides."""
    model, _, name = recipe.partition("/")
    path = home.here().recipe(model, name or "base")
    return resolve(model, path, home.here().config_of(model), seed=seed, overrides=overrides)[0]


@pytest.fixture
def train_briefly(place: Place) -> Callable[..., Run]:
    """Train a brief run in this process: ``train_briefly("digits/base", "training.lr=0.1")``."""
    from lockstep.run.story import run_experiment

    def train(recipe: str = "digits/base", *overrides: str, seed: int = 42) -> Run:
        run = run_experiment(experiment(recipe, *overrides, seed=seed), place, Watch())
        assert run
        return run

    return train


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Run:
    """A finished brief run of digits, to be looked at, not changed."""
    from lockstep.run.story import run_experiment

    folder = Place(tmp_path_factory.mktemp("finished"), data_folder)
    run = run_experiment(experiment(), folder, Watch())
    assert run
    return run


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """One verb in this process: (exit code, output, messages)."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


def copy_of_tracked_files(folder: Path) -> Path:
    """The folder, filled with the clone's files as git knows them, to train and write in."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def command(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python -m lockstep ...`` as a process of its own, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "lockstep", *words],
        cwd=ROOT,
        env=plain_environment() | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def plain_environment() -> dict[str, str]:
    """The variables of a shell that knows nothing of profiles; this process has entered one."""
    entered = profiles.variables("portable")
    return {name: value for name, value in os.environ.items() if name not in entered}
