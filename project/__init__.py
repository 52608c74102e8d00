"""Lockstep: training runs whose result is the same bits again, and a receipt that proves it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from project.models.predictor import Predictor

__version__ = "0.1.0"


def load(model: str, run: str | Path, runs: str | Path | None = None) -> "Predictor":
    """The trained model of a run, ready to predict: three lines from import to an answer.

    ``run`` is a path, a run's name or the beginning of it. Raises RunError or ModelError if there
    is no such run, or if it is not finished, not one of this model, or answers
    otherwise than in training.
    """
    from project.training import profiles

    settled = profiles.prefer("portable")
    from project import models, trained
    from project.place import Place
    from project.records.receipt import find_run
    from project.training.determinism import enforce

    if settled:
        enforce("portable", "cpu")

    found = find_run(str(run), Place.default(str(runs) if runs else None).runs)
    predictor: Predictor = models.module(model).Predictor.load(found.folder)
    trained.checked(found, predictor)
    return predictor
