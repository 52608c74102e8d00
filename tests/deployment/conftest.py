"""Runs that may leave the repository: brief ones, by budgets that they keep."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from project.experiment import run_experiment
from project.place import Place
from project.records.receipt import Run
from project.watch import Watch
from tests.conftest import experiment


@pytest.fixture(scope="session")
def accepted(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Callable[[str], Run]:
    """A finished brief run of a recipe, to be looked at, not changed: ``accepted("tags/base")``."""

    @cache
    def train(recipe: str) -> Run:
        keeps = ("accept.test.accuracy=>= 0.05", "accept.latency_ms=<= 60000")
        place = Place(tmp_path_factory.mktemp("accepted"), data_folder)
        run = run_experiment(experiment(recipe, *keeps), place, Watch())
        assert run
        return run

    return train
