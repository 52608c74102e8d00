"""Acceptance: a run's measures against its budgets."""

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lockstep.config.budgets import MEASURES, Budget, budget
from lockstep.ground.errors import RunError, SettingError, nearest
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.receipt import metrics_of
from lockstep.records.run import Run
from lockstep.records.verify import refuse_altered

_WARM_UP, _TIMED, _SECONDS = 10, 100, 5.0


@dataclass(frozen=True)
class Finding:
    """The value of one measure, None if it is not finite, and what its budget expects."""

    measure: str
    value: float | None
    expected: str
    met: bool


def budgets(run: Run, stated: Iterable[str] = ()) -> list[Budget]:
    """Return the budgets of a run's recipe, and those ``stated`` as MEASURE=BOUND.

    What is stated wins. Raises SettingError with every mistake, one line each, RunError if the
    recipe's are not those that the receipt seals.
    """
    _refuse_changed_budgets(run)
    places = {}
    for measure, bound in (run.experiment().get("accept") or {}).items():
        places[measure] = (bound, f"{run.folder / 'experiment.yaml'}: accept.{measure}")
    problems, found = [], []
    for word in stated:
        measure, equals, bound = word.partition("=")
        if equals:
            places[measure.strip()] = (bound, f"--set {measure.strip()}")
        else:
            problems.append(f"--set {word}: '=' not found, expected as in test.loss='<= 0.5'")
    for measure, (bound, place) in places.items():
        if isinstance(read := budget(measure, bound), Budget):
            found.append(read)
        else:
            problems.append(f"{place}: {read}")
    if problems:
        raise SettingError("\n".join(problems))
    return found


def _refuse_changed_budgets(run: Run) -> None:
    """Raise RunError if the budgets of a run were changed or removed since its training."""
    receipt, now = run.receipt, run.experiment().get("accept") or {}
    sealed = receipt.get("accept") if receipt else None
    if sealed is None or sealed == now:
        return
    measure = next(one for one in {**sealed, **now} if sealed.get(one) != now.get(one))
    raise RunError(
        f"{run.folder / 'experiment.yaml'}: accept.{measure}: found "
        f"{now.get(measure, 'no budget')}, expected {sealed.get(measure, 'no budget')} as in the "
        "receipt; put the file back as it was, or train again."
    )


def findings(run: Run, budgets: Sequence[Budget], place: Place, watch: Watch) -> list[Finding]:
    """Measure a finished run for each budget; the latency only if one bounds it.

    Raises RunError if the run is not finished or was altered, or has no such metric.
    """
    refuse_altered(run)
    measured = metrics_of(run.finished_receipt())
    measured["size_mb"] = (run.folder / "weights.safetensors").stat().st_size / 1e6
    if any(one.measure == "latency_ms" for one in budgets):
        measured["latency_ms"] = latency(run, place, watch)
    if missing := [one.measure for one in budgets if one.measure not in measured]:
        there_are = ", ".join(name for name in measured if name not in MEASURES)
        raise RunError(
            f"{run.name}: {missing[0]}: no such metric.{nearest(missing[0], measured)} (there are "
            f"{there_are})"
        )
    return [_finding(one, measured[one.measure]) for one in budgets]


def _finding(one: Budget, value: float | None) -> Finding:
    return Finding(one.measure, value, one.condition, value is not None and one.met(value))


def shown(value: float | None) -> str:
    """Return a value that was measured as people read it."""
    return "not finite" if value is None else f"{value:.6g}"


def latency(run: Run, place: Place, watch: Watch) -> float:
    """Return the median milliseconds of a run's Predictor for one example, one thread, warm.

    The example is the first of the test split, as users have it. Call this before torch is
    loaded, as ``loading.predictor``, or under the run's profile.
    """
    from lockstep import loading

    predictor = loading.predictor(run)
    from lockstep.run.keeping import open_data  # loads torch, for which the profile now stands

    experiment = run.experiment()
    example = open_data(experiment["data"]["name"], place, watch).splits["test"].inputs[0]
    inputs = [predictor.as_input(example)]
    for _ in range(_WARM_UP):
        predictor.predict(inputs)
    took: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(took) < _TIMED and (not took or time.perf_counter() < end):
        began = time.perf_counter()
        predictor.predict(inputs)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def refuse_failing(run: Run, place: Place, watch: Watch) -> list[Finding]:
    """Return the findings of a run that keeps all budgets of its recipe; empty without budgets.

    Raises RunError with every budget that the run does not keep.
    """
    found = findings(run, budgets(run), place, watch)
    if failed := [one for one in found if not one.met]:
        short = "; ".join(
            f"{one.measure} {shown(one.value)}, expected {one.expected}" for one in failed
        )
        raise RunError(
            f"{run.name}: does not keep its recipe's budgets: {short}. Train a better one, or "
            "change the budgets in the recipe's section accept."
        )
    return found
