"""A trained model, ready to answer: that of a finished run, of a bundle, or published weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.bundles import manifest
from lockstep.bundles.opening import is_bundle, opened, readable
from lockstep.ground import environment, profiles
from lockstep.ground.errors import BundleError, ModelError
from lockstep.ground.home import Home, or_here
from lockstep.ground.place import Place
from lockstep.records.checkout import FIRST_PACKAGE, package_of
from lockstep.records.receipt import Receipt
from lockstep.records.receipt import read as read_receipt
from lockstep.records.run import Run, find_run, is_there, refuse_nameless
from lockstep.records.verify import refuse_changed

if TYPE_CHECKING:
    from lockstep.answers.predictor import Predictor


@dataclass(frozen=True)
class Served:
    """What can be served: a Predictor, the name it goes by, and its description as JSON."""

    name: str
    predictor: "Predictor"
    about: dict[str, Any]


def find(name: str, runs: Path, say: Callable[[str], None] | None = None) -> Run | Path:
    """Return the bundle at a path, or else the run of that name or path, as ``find_run``."""
    refuse_nameless(name)
    path = Path(name)
    return path if is_there(path) and is_bundle(path) else find_run(name, runs, say)


def served(source: Run | Path, *, onnx: bool = False) -> Served:
    """Load a finished run or a bundle for a server; called, and raises, as ``predictor``.

    With ``onnx`` ONNX Runtime computes, whose answers have other last bits than those of training.
    """
    with _opened(source) as weights:
        loaded, golden_answers = weights.load(weights.home, _enter)
        about = _about(weights.receipt)
    runtime = f"torch {environment.installed()['torch']}"
    if onnx:
        runtime, golden_answers = _by_onnx(loaded)
    return Served(about["run"], loaded, about | {"golden": golden_answers, "runtime": runtime})


def _about(receipt: Receipt) -> dict[str, Any]:
    """Return what a server says of the run that it answers with."""
    results = receipt["results"]
    test = {
        name: value
        for name, value in results["metrics"]["test"].items()
        if value is None or isinstance(value, float)
    }
    return {
        "run": receipt["run"],
        "identity": receipt["identity"]["digest"],
        "weights_sha256": results["weights_sha256"],
        "finished": receipt["timing"]["finished"],
        "promise": receipt["level"]["promise"],
        "metric": results.get("monitor") or next(iter(test)),  # older receipts don't say
        "test": test,
    }


def predictor(source: Run | Path) -> "Predictor":
    """Load the Predictor of a finished run or a bundle, under the profile of its training.

    Call this before torch is loaded, which reads the profile's variables once. Raises RunError,
    ModelError or BundleError if the run is not finished, was altered or answers otherwise than in
    training, EnvironmentMismatch if torch was loaded under other variables.
    """
    with _opened(source) as weights:
        return weights.load(weights.home, _enter)[0]


def load(
    project: Home,
    model: str,
    run: str | Path | None,
    runs: str | Path | None,
    version: str | None,
) -> "Predictor":
    """Load the Predictor that a project's ``load`` returns.

    It is that of ``run`` (or a bundle), else of published weights: of ``version``, or the newest.
    If torch was loaded under other variables than the profile's, the golden answers, which may have
    other last bits then, are not compared.
    """
    project.folder_of(model)  # refuses an unknown model before anything is fetched
    place = Place.default(str(runs) if runs else None)
    from lockstep.ground import console

    if run is not None:
        source = find(str(run), place.runs, console.watch().say)
    else:
        from lockstep.publishing.weights import fetched

        source = fetched(project.published_name(model), version, place.data, console.watch())
    with _opened(source) as weights:
        if weights.model != model:
            raise ModelError(
                f"{run or weights.folder}: found the model {weights.model!r}, expected {model!r}; "
                f"load({weights.model!r}, ...) loads it."
            )
        return weights.load(project, profiles.prefer)[0]


def _by_onnx(predictor: "Predictor") -> tuple[str, str]:
    """Let ONNX Runtime compute a Predictor's answers; return its version, and their precision."""
    from lockstep.answers import golden
    from lockstep.publishing import onnx

    if predictor.golden is None:
        raise ModelError(
            "onnx: the run has no golden answers to compare with; train it again, or omit --onnx."
        )
    rows = golden.examples(predictor.golden)
    content, _ = onnx.exported(predictor, rows)
    session = onnx.Session(content)
    onnx.compute(predictor, session)
    predictor.narrow(rows)  # its kernels may differ by size where torch's do not
    what = "the same labels, probabilities" if predictor.gives == "label" else "outputs"
    exact = f"{what} within {onnx.TOLERANCE:g}: not the bits of training"
    return f"onnxruntime {session.version}", exact


@dataclass(frozen=True)
class _Weights:
    """A folder with weights, and which model of which package was trained to have them."""

    folder: Path
    package: str
    model: str
    profile: str
    receipt: Receipt

    @property
    def home(self) -> Home:
        """The home whose code trained them, if it is installed here."""
        return or_here(self.package)

    def load(self, project: Home, enter: Callable[[str], bool]) -> tuple["Predictor", str]:
        """Return the Predictor, and the result of comparing its golden answers.

        ``enter`` enters the profile, and says whether it could.
        """
        entered = enter(self.profile)
        from lockstep.answers import golden
        from lockstep.training.determinism import enforce  # loads torch

        if entered:
            enforce(self.profile, "cpu")
        loaded = project.module(self.model).Predictor.load(self.folder)
        cpu = environment.cpu()["model"]
        with readable(self.folder):
            return loaded, golden.compared(loaded, self.receipt, cpu, entered)


@contextmanager
def _opened(source: Run | Path) -> Iterator[_Weights]:
    if isinstance(source, Path):
        with opened(source) as folder:
            facts = manifest.read(folder)
            if facts["profile"] not in profiles.PROFILES:
                raise BundleError(
                    f"{folder / manifest.NAME}: found profile {facts['profile']!r:.40}, expected "
                    f"{' or '.join(profiles.PROFILES)}; use the version of Lockstep that wrote it."
                )
            if (receipt := read_receipt(folder / "receipt.json")) is None:
                raise BundleError(f"{folder / 'receipt.json'}: not found; restore a good copy.")
            package = str(facts.get("package", FIRST_PACKAGE))
            yield _Weights(folder, package, facts["model"], facts["profile"], receipt)
        return
    refuse_changed(source)
    experiment = source.experiment()
    profile, model = experiment["training"]["profile"], experiment["name"]
    package, receipt = package_of(source), source.finished_receipt()
    yield _Weights(source.folder, package, model, profile, receipt)


def _enter(profile: str) -> bool:
    profiles.enter(profile)
    return True
