"""The model of a finished run, ready to answer."""

from typing import Any

from project import models
from project.records.receipt import Run, refuse_changed
from project.training import profiles


def predictor(run: Run) -> Any:
    """The Predictor of a finished run, under the profile that the run was trained in.

    To be called before torch is loaded, which reads the profile's variables once. Raises RunError
    or ModelError if the run is not finished or was altered, EnvironmentMismatch if torch was
    loaded under other variables.
    """
    refuse_changed(run)
    experiment = run.experiment()
    profile = experiment["training"]["profile"]
    profiles.enter(profile)
    from project.training.determinism import enforce  # loads torch

    enforce(profile, "cpu")
    return models.module(experiment["name"]).Predictor.load(run.folder)
