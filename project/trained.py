"""The model of a finished run, ready to answer."""

from dataclasses import dataclass
from typing import Any

from project import models
from project.errors import ModelError
from project.records import environment
from project.records.receipt import Run, refuse_changed
from project.training import profiles


@dataclass(frozen=True)
class Served:
    """What can be served: a Predictor, the name it goes by, and what is told of it as JSON."""

    name: str
    predictor: Any
    about: dict[str, Any]


def served(run: Run) -> Served:
    """A finished run, to be served; called before torch is loaded. Raises as ``predictor``."""
    found, golden_answers = _loaded(run)
    receipt = run.receipt
    assert receipt  # or the predictor would not have loaded
    results = receipt["results"]
    about = {
        "run": receipt["run"],
        "identity": receipt["identity"]["digest"],
        "weights_sha256": results["weights_sha256"],
        "finished": receipt["timing"]["finished"],
        "promise": receipt.get("level", {}).get("promise"),
        "test": {name: results["metrics"]["test"][name] for name in ("accuracy", "f1", "loss")},
        "golden": golden_answers,
    }
    return Served(run.name, found, about)


def predictor(run: Run) -> Any:
    """The Predictor of a finished run, under the profile that the run was trained in.

    To be called before torch is loaded, which reads the profile's variables once. Raises RunError
    or ModelError if the run is not finished, was altered or answers otherwise than in training,
    EnvironmentMismatch if torch was loaded under other variables.
    """
    return _loaded(run)[0]


def _loaded(run: Run) -> tuple[Any, str]:
    refuse_changed(run)
    experiment = run.experiment()
    profile = experiment["training"]["profile"]
    profiles.enter(profile)
    from project.training.determinism import enforce  # loads torch

    enforce(profile, "cpu")
    found = models.module(experiment["name"]).Predictor.load(run.folder)
    return found, checked(run, found)


def checked(run: Run, predictor: Any) -> str:
    """``"equal"`` if a Predictor has every bit of the run's golden answers, or why nobody knows.

    Nobody does where the run promises nothing: under another profile, or, if it is not portable,
    on another CPU. Raises ModelError if the answers differ where they must not.
    """
    receipt = run.receipt or {}
    if predictor.golden is None:
        return "unchecked: the run has no golden answers"
    if profiles.differing(run.parts["profile"]["name"]):
        return "unchecked: this process is not under the run's profile"
    cpu = receipt["environment"]["cpu"]["model"]
    portable = receipt["level"]["promise"].endswith("(portable)")
    if not portable and cpu != environment.cpu()["model"]:
        return f"unchecked: the run was trained on another kind of CPU ({cpu})"
    from project.models import golden  # loads numpy

    wanted = predictor.golden["answers"]
    found = predictor.answers(golden.examples(predictor.golden))
    if told := golden.difference(wanted, found):
        raise ModelError(
            f"{run.folder}: answers otherwise than in training ({told}); this machine or its "
            "packages compute other bits. `invoke doctor` says what is not as locked."
        )
    return "equal"
