"""A trained model, ready to answer: that of a finished run, of a bundle, or published weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.bundles import manifest
from lockstep.bundles.opening import is_bundle, opened, told_as_unfit
from lockstep.ground import environment, profiles
from lockstep.ground.errors import BundleError, ModelError
from lockstep.ground.home import Home, here
from lockstep.ground.place import Place
from lockstep.records.receipt import Receipt
from lockstep.records.receipt import read as read_receipt
from lockstep.records.run import Run, find_run
from lockstep.records.verify import refuse_changed

if TYPE_CHECKING:
    from lockstep.answers.predictor import Predictor


@dataclass(frozen=True)
class Served:
    """What can be served: a Predictor, the name it goes by, and what is told of it as JSON."""

    name: str
    predictor: "Predictor"
    about: dict[str, Any]


def find(given: str, runs: Path) -> Run | Path:
    """The bundle at a path, or else the run that is meant, as ``find_run``."""
    path = Path(given)
    return path if is_bundle(path) else find_run(given, runs)


def served(source: Run | Path, *, onnx: bool = False) -> Served:
    """A finished run or a bundle, to be served. To be called, and raises, as ``predictor``.

    With ``onnx`` ONNX Runtime computes, whose answers have other last bits than those of training.
    """
    with _opened(source) as weights:
        found, golden_answers = weights.loaded(here(), weights.model, _entered)
        about = _told(weights.receipt)
    computed_by = f"torch {environment.installed()['torch']}"
    if onnx:
        computed_by, golden_answers = _by_onnx(found)
    return Served(about["run"], found, about | {"golden": golden_answers, "runtime": computed_by})


def _told(receipt: Receipt) -> dict[str, Any]:
    """What a receipt tells those who are served."""
    results = receipt["results"]
    test = results["metrics"]["test"]
    return {
        "run": receipt["run"],
        "identity": receipt["identity"]["digest"],
        "weights_sha256": results["weights_sha256"],
        "finished": receipt["timing"]["finished"],
        "promise": receipt["level"]["promise"],
        "test": {"accuracy": test["accuracy"], "f1": test["f1"], "loss": test["loss"]},
    }


def predictor(source: Run | Path) -> "Predictor":
    """The Predictor of a finished run or a bundle, under the profile of its training.

    To be called before torch is loaded, which reads the profile's variables once. Raises RunError,
    ModelError or BundleError if it is not finished, was altered or answers otherwise than in
    training, EnvironmentMismatch if torch was loaded under other variables.
    """
    with _opened(source) as weights:
        return weights.loaded(here(), weights.model, _entered)[0]


def load(
    project: Home,
    model: str,
    given: str | Path | None,
    runs: str | Path | None,
    version: str | None,
) -> "Predictor":
    """Return the Predictor that a project's ``load`` gives; by default of the newest weights.

    If torch was loaded under other variables than the profile's, the golden answers, which may have
    other last bits then, are not compared.
    """
    place = Place.default(str(runs) if runs else None)
    if given is not None:
        source = find(str(given), place.runs)
    else:
        from lockstep.ground import console
        from lockstep.publishing.weights import fetched

        source = fetched(project.published_name(model), version, place.data, console.watch())
    with _opened(source) as weights:
        return weights.loaded(project, model, profiles.prefer)[0]


def _by_onnx(predictor: "Predictor") -> tuple[str, str]:
    """Have ONNX Runtime compute a Predictor's answers; its version, and what is true of them."""
    from lockstep.answers import golden
    from lockstep.publishing import onnx

    if predictor.golden is None:
        raise ModelError(
            "onnx: the run has no golden answers to compare with; train it again, or leave --onnx "
            "away."
        )
    rows = golden.examples(predictor.golden)
    content, _ = onnx.exported(predictor, rows)
    predictor.model = session = onnx.Session(content)
    predictor.narrow(rows)  # its kernels may differ by size where torch's do not
    told = f"the same labels, probabilities within {onnx.TOLERANCE:g}: not the bits of training"
    return f"onnxruntime {session.version}", told


@dataclass(frozen=True)
class _Weights:
    """A folder with weights, and what is known of their training."""

    folder: Path
    model: str
    profile: str
    receipt: Receipt

    def loaded(
        self, project: Home, model: str, settle: Callable[[str], bool]
    ) -> tuple["Predictor", str]:
        """The Predictor, and what came of comparing its golden answers."""
        settled = settle(self.profile)
        from lockstep.answers import golden
        from lockstep.training.determinism import enforce  # loads torch

        if settled:
            enforce(self.profile, "cpu")
        found = project.module(model).Predictor.load(self.folder)
        cpu = environment.cpu()["model"]
        with told_as_unfit(self.folder):
            return found, golden.compared(found, self.receipt, cpu, settled)


@contextmanager
def _opened(source: Run | Path) -> Iterator[_Weights]:
    if isinstance(source, Path):
        with opened(source) as folder:
            said = manifest.read(folder)
            if said["profile"] not in profiles.PROFILES:
                raise BundleError(
                    f"{folder / manifest.NAME}: found profile {said['profile']!r:.40}, wanted "
                    f"{' or '.join(profiles.PROFILES)}; use the version of Lockstep that wrote it."
                )
            if (receipt := read_receipt(folder / "receipt.json")) is None:
                raise BundleError(f"{folder / 'receipt.json'}: is missing; bring a good copy.")
            yield _Weights(folder, said["model"], said["profile"], receipt)
        return
    refuse_changed(source)
    experiment = source.experiment()
    profile = experiment["training"]["profile"]
    yield _Weights(source.folder, experiment["name"], profile, source.finished_receipt())


def _entered(profile: str) -> bool:
    profiles.enter(profile)
    return True
