"""The story of a run: settings -> data -> identity -> folder -> training -> receipt."""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import NamedTuple

from lockstep.answers import golden
from lockstep.answers.predictor import Predictor
from lockstep.config.experiment import Experiment
from lockstep.data.batches import Blocks
from lockstep.data.dataset import Dataset
from lockstep.ground import environment, profiles
from lockstep.ground.digests import canonical_json
from lockstep.ground.errors import EnvironmentMismatch
from lockstep.ground.files import abandon, held, owned
from lockstep.ground.home import or_here
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.records.checkout import package_of
from lockstep.records.identity import Parts, identity
from lockstep.records.run import Run
from lockstep.run.caches import Caches
from lockstep.run.ending import end, final_measures
from lockstep.run.keeping import (
    files_that_make,
    fold_of,
    open_data,
    open_run,
    packages_of,
    paths_of,
    record_failure,
    record_failure_of_worker,
    run_named,
    what_decides,
    write,
)
from lockstep.run.level import doubts, is_portable, surroundings_of
from lockstep.run.making import Setup, evaluation_of, train_setup
from lockstep.run.recorder import NullRecorder, Recorder
from lockstep.run.rehearsal import (
    Inspection,
    agree,
    first_step,
    refuse_other_process,
    rehearse,
)
from lockstep.run.starting import begin
from lockstep.run.witness import Witness
from lockstep.training.determinism import enforce
from lockstep.training.distributed import Workers, joined
from lockstep.training.evaluation import measure
from lockstep.training.metrics import Metrics, figures
from lockstep.training.signals import stop_signal


def run_experiment(
    experiment: Experiment,
    place: Place,
    watch: Watch,
    until: int = 0,
    dataset: Dataset | None = None,
) -> Run | None:
    """Train what the experiment says, from the start or where it was stopped, to its receipt.

    With ``until`` training stops at that step, saved and without a receipt. A finished run is
    returned as it is. Workers other than the first, which keeps the run's files, return None.
    A ``dataset`` takes the place of the catalog's, as a part of it does in tests.
    Raises Interrupted when a signal asked to stop, after the state was saved; the same call
    resumes from there.
    """
    settings = experiment.training
    profiles.enter(settings.profile)
    enforce(settings.profile, settings.device)
    # First of all, so that others wait for a worker that has data to fetch, and not for a dead one.
    with joined(settings.shards, settings.device) as workers:
        if workers.spare:
            return None
        dataset = dataset or open_data(experiment.data.name, place, watch, fold_of(experiment))
        experiment, weights = begin(experiment, place, watch)
        files = files_that_make(experiment.model)  # once, as people edit while a run starts
        parts = what_decides(experiment, dataset, files, place)
        if not workers.first:
            if not _is_finished(parts, workers):
                with record_failure_of_worker(run_named(experiment, identity(parts), place)):
                    setup, _, check = _set_up(experiment, dataset, weights, workers, files, place)
                    _help(setup, check, until)
            return None
        run, contents = open_run(experiment, files, parts, place, watch)
        with held(run.folder, watch.say):
            finished = run.receipt is not None
            workers.broadcast_bytes(
                canonical_json({"identity": run.identity, "finished": finished})
            )
            if finished:
                abandon(run.folder)  # killed after its receipt and before it could tidy up
            else:
                with record_failure(run) as passed, owned(run.folder) as owner:
                    write(run.folder, contents())  # what stands beside the results is what ran
                    setup, origin, check = _set_up(
                        experiment, dataset, weights, workers, files, place
                    )
                    recorder = Recorder(run, setup, watch, origin, owner)
                    _train_to_receipt(setup, check, recorder, until, passed, surroundings_of(files))
    return run


class Rehearsal(NamedTuple):
    """What a rehearsal gives: who looks on later, doubts, and a digest of the first step.

    The digest is empty where another process may have other bits: in doubt, or not portable.
    """

    inspection: Inspection
    reasons: set[str]
    first_step: str


def _set_up(
    experiment: Experiment,
    dataset: Dataset,
    weights: bytes,
    workers: Workers,
    files: dict[str, bytes],
    place: Place,
) -> tuple[Setup, dict[str, str], Callable[[], Rehearsal]]:
    """Set up a run, alike in each worker; return it, its digests, and what checks it once."""
    witness = Witness(paths_of(files), [place.data / "arrays"], packages_of(files))
    with witness.noting():
        setup = Setup(experiment, dataset, workers, weights)
    origin, beginning = agree(setup), [setup.training.snapshot()]

    def check() -> Rehearsal:
        with witness.noting():
            caches = Caches(setup)
            inspect = rehearse(setup, caches)
            setup.rehearse_evaluation()
        witness.refuse_unknown()
        examples = dataset.splits["test"].inputs
        golden.rehearse(
            *(experiment.model, setup.stored(), setup.weights(), examples, setup.preprocess),
            caches.empty,
        )
        caches.empty()  # of what was computed without gradients
        reasons, first = doubts(setup), ""  # comes back when all workers have come so far
        if is_portable(experiment.training) and not reasons:
            first = first_step(setup, beginning.pop())
            refuse_other_process(setup, first)
        beginning.clear()  # as long as a training is too long for a copy of its beginning
        return Rehearsal(inspect, reasons, first)

    return setup, origin, check


def _train_to_receipt(
    setup: Setup,
    check: Callable[[], Rehearsal],
    recorder: Recorder,
    until: int,
    passed: Callable[[], None],
    reasons: set[str],
) -> None:
    began = time.monotonic()  # not by the clock, which people and machines set back
    environment.git()  # remembered now, because people commit while a run trains

    def checked() -> Inspection:
        found = check()
        recorder.doubt(found.reasons | reasons)
        if found.first_step:
            recorder.begin(found.first_step)
        passed()
        return found.inspection

    if train_setup(setup, recorder, checked, until):
        with stop_signal() as signals:
            end(setup, recorder.run, recorder, began, signals)


def _is_finished(parts: Parts, workers: Workers) -> bool:
    """Hear from the first worker whether the run is finished. Raises if it is not the same run."""
    first = json.loads(workers.broadcast_bytes())
    mine = {name: digest for name, digest in identity(parts).items() if name != "digest"}
    if different := [name for name in mine if mine[name] != first["identity"].get(name)]:
        raise EnvironmentMismatch(
            f"worker {workers.rank}: its {different[0]} differs from the first worker's, expected "
            "the same one: use the same commit, settings, data and packages on all machines."
        )
    return bool(first["finished"])


def _help(setup: Setup, check: Callable[[], Rehearsal], until: int) -> None:
    """Do what a worker does that is not the first: its part of training and evaluation."""
    if train_setup(setup, NullRecorder(), lambda: check().inspection, until):
        with stop_signal() as signals:
            final_measures(setup, signals)


def evaluate_run(
    run: Run, predictor: Predictor, place: Place, watch: Watch
) -> tuple[Metrics, Metrics]:
    """Return the test metrics of a run's Predictor, measured now, and those of its receipt."""
    experiment = run.experiment()
    dataset = open_data(experiment["data"]["name"], place, watch)
    blocks = Blocks(
        dataset.splits["test"], predictor.preprocess, experiment["training"]["evaluation_batch"]
    )
    expected = dict(run.finished_receipt()["results"]["metrics"]["test"])
    parts = or_here(package_of(run)).module(experiment["name"])
    evaluation = evaluation_of(parts, parts.Config(**experiment["model"]), dataset)
    evaluation = dataclasses.replace(evaluation, names=tuple(figures(expected)))
    found = measure(predictor.model, blocks, evaluation).metrics
    if "confusion" not in found:  # an older engine kept it for any number of classes
        expected.pop("confusion", None)
    return found, expected
