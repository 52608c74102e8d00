"""The story of a run: config -> data -> model -> training -> receipt, top to bottom."""

import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from project import models
from project.config import Experiment
from project.data import catalog
from project.data.arrays import Dataset, open_dataset
from project.data.batches import Batches, blocks
from project.data.fetch import fetch
from project.errors import RunError
from project.files import (
    digest_of,
    held,
    key_of,
    publish_folder,
    readable_json,
    told_in_one_line,
    write_atomically,
    write_flushed,
)
from project.place import Place
from project.records import environment, report, source, trace
from project.records.journal import Journal
from project.records.receipt import Run, identity, receipt
from project.records.trace import Trace
from project.training import profiles
from project.training.checkpoint import Checkpoints, Snapshot
from project.training.determinism import enforce, reseed
from project.training.evaluation import metrics, probabilities
from project.training.loop import Training, train
from project.training.optimizer import Optimizer, learning_rate
from project.training.parameters import FlatParameters
from project.training.shards import ShardedGradient
from project.training.signals import stop_signal
from project.watch import Watch


def run_experiment(experiment: Experiment, place: Place, watch: Watch) -> Run:
    """Train what the experiment says, from the start or from where it was left, to its receipt.

    A finished run is returned as it is. Raises Interrupted when a signal asked to stop, after the
    state was saved; the same call goes on from there.
    """
    settings = experiment.training
    profiles.enter(settings.profile)
    enforce(settings.profile, settings.device)
    dataset = open_data(experiment.data.name, place, watch)
    run, identifier = _open_run(experiment, dataset, place, watch)
    with held(run.folder, watch.say):
        if run.receipt is None:
            _train_to_receipt(experiment, dataset, run, identifier, watch)
    return run


def open_data(name: str, place: Place, watch: Watch) -> Dataset:
    """A data set of the catalog, fetched and prepared if this machine has it not yet."""
    entry = catalog.entry(name)
    return open_dataset(
        entry,
        place.data / "arrays",
        lambda wanted: fetch(wanted, place.data / "raw", watch.say, watch.bar),
        watch.say,
    )


def _open_run(
    experiment: Experiment, dataset: Dataset, place: Place, watch: Watch
) -> tuple[Run, dict[str, str]]:
    """The run's folder, made if it is not there, and its identity."""
    files = source.files_that_run(
        "project.experiment", f"project.models.{experiment.model}.__init__"
    )
    packages = environment.packages()
    profile = {"name": experiment.training.profile, "device": experiment.training.device}
    if experiment.training.profile == "native":
        profile["cpu"] = environment.cpu()["model"]
    if experiment.training.device == "cuda":
        profile["gpu"] = torch.cuda.get_device_name()
    identifier = identity(
        experiment=experiment.as_dict(bits_only=True),
        source=source.source_digest(files),
        data=dataset.digest,
        packages=packages.as_identity(),
        profile=profile,
    )
    if packages.drift:
        watch.say(
            f"WARNING: {len(packages.drift)} packages are not as locked "
            f"({'; '.join(packages.drift[:3])}...); this is in the run's identity and receipt. "
            "`invoke doctor` lists all, ./workbench mends it."
        )
    name = f"{experiment.model}-{experiment.recipe}-s{experiment.seed}-{identifier['digest'][:8]}"
    run = Run(place.runs / name)

    def write(part: Path) -> None:
        write_flushed(part / "experiment.yaml", experiment.as_yaml())
        kept = files | {"project/data/catalog.yaml": catalog.CATALOG.read_bytes()}
        write_flushed(part / "source.zip", source.archive(kept))
        write_flushed(part / "identity.json", readable_json(identifier))

    with told_in_one_line(place.runs):
        place.runs.mkdir(parents=True, exist_ok=True)
    with held(place.runs, lambda _: None):
        if not run.folder.exists():
            publish_folder(run.folder, write)
    if run.identity != identifier:
        found = (run.identity or {}).get("digest", "none")
        raise RunError(
            f"{run.folder}: holds a run of identity {found[:12]}, wanted "
            f"{identifier['digest'][:12]}; it was put there by hand. Move it away, or name another "
            "folder (--runs DIR)."
        )
    return run, identifier


def _train_to_receipt(
    experiment: Experiment,
    dataset: Dataset,
    run: Run,
    identifier: dict[str, str],
    watch: Watch,
) -> None:
    settings, parts = experiment.training, models.module(experiment.model)
    started = time.time()
    environment.git()  # remembered now, because people commit while a run trains
    split = dataset.splits["train"].first(experiment.data.limit)

    preprocess = parts.Preprocess.fit(experiment.settings, split.inputs, list(dataset.labels))
    reseed(key_of(experiment.seed, "weights"))
    model = parts.Model(experiment.settings, len(dataset.labels)).to(settings.device)
    flat = FlatParameters(model)
    training = Training(
        flat,
        Optimizer(
            flat,
            name=settings.optimizer,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
        ),
        clip=settings.clip,
        average=settings.average,
    )
    batches = Batches(
        split,
        lambda raw, generator: preprocess.augment(preprocess(raw), generator),
        batch_size=settings.batch_size,
        shards=settings.shards,
        seed=experiment.seed,
    )
    gradient = ShardedGradient(
        model,
        flat,
        parts.loss,
        lambda step, shard: reseed(key_of(experiment.seed, "dropout", step, shard)),
    )
    steps = settings.epochs * batches.steps_per_epoch

    def answers(name: str) -> tuple[Any, Any]:
        return probabilities(
            model, blocks(dataset.splits[name], preprocess, settings.evaluation_batch)
        )

    def evaluate() -> tuple[float, dict[str, Any]]:
        found = metrics(*answers("validation"))
        score = found[settings.monitor]
        return (-score if settings.monitor == "loss" else score), found

    with ExitStack() as stack:
        checkpoints = Checkpoints(run.folder / "checkpoints", settings.keep_checkpoints, watch.say)
        recorder = _resume(training, checkpoints, run, batches, watch)
        stack.callback(recorder.close)
        stack.callback(checkpoints.close)  # first, because a write in flight flushes the recorder
        step = training.progress.step
        watch.begin(run.name, step, steps, batches.steps_per_epoch, settings.batch_size)
        stack.callback(watch.end)

        def save(snapshot: Snapshot) -> None:
            state = snapshot.state | recorder.mark()
            checkpoints.save(
                dataclasses.replace(snapshot, state=state),
                best=training.progress.best_step,
                flush=recorder.flush,
            )
            watch.saved(snapshot.step)

        train(
            training,
            gradient,
            batches.steps(step, steps, settings.loaders),
            steps=steps,
            steps_per_epoch=batches.steps_per_epoch,
            learning_rate=learning_rate(
                peak=settings.lr, schedule=settings.schedule, warmup=settings.warmup, steps=steps
            ),
            evaluate=evaluate,
            patience=settings.patience,
            observer=recorder,
            save=save,
            save_is_due=_due(settings.checkpoint_every, settings.checkpoint_seconds),
            stop_signal=stack.enter_context(stop_signal()),
        )
        checkpoints.wait()
        trained = time.time()

        kept = training.progress.best_step if settings.keep == "best" else training.progress.step
        training.restore(checkpoints.read(kept or training.progress.step))
        with training.kept_weights():
            weights = safetensors.torch.save(
                {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
            )
            validation, test = metrics(*answers("validation")), answers("test")

    config = dataclasses.asdict(experiment.settings)
    stored = {"model": experiment.model, "config": config} | preprocess.state()
    outcome = {
        "steps": recorder.last_step,
        "epochs": recorder.last_step // batches.steps_per_epoch,
        "kept_step": training.progress.step,
        "weights_sha256": digest_of(weights),
        "preprocess_sha256": digest_of(readable_json(stored)),
        "trace_sha256": digest_of(run.folder / "trace.bin"),
        "labels": list(dataset.labels),
        "metrics": {"validation": validation, "test": metrics(*test)},
        "data": trace.epochs_seen(run.folder / "trace.bin", batches.steps_per_epoch),
    }
    done = recorder.last_step - step
    content = receipt(
        run.name,
        identifier,
        environment.facts(torch.get_num_threads(), torch.__version__),
        outcome,
        {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.time() - started, 3),
            "resumed_at_step": step,
            "samples_per_second": round(done * settings.batch_size / (trained - started), 1),
        },
    )
    mistakes = report.worst_mistakes(
        *test, dataset.labels, lambda row: parts.Preprocess.show(dataset.splits["test"].inputs[row])
    )
    write_atomically(run.folder / "weights.safetensors", weights)
    write_atomically(run.folder / "preprocess.json", readable_json(stored))
    page = report.page(content, run.metrics(), trace.read(run.folder / "trace.bin"), mistakes)
    write_atomically(run.folder / "report.html", page)
    # Last, because a run with a receipt is a finished run.
    write_atomically(run.folder / "receipt.json", content)


def predictor(run: Run) -> Any:
    """The Predictor of a finished run, under the profile that the run was trained in."""
    experiment = run.experiment()
    profiles.enter(experiment["training"]["profile"])
    enforce(experiment["training"]["profile"], "cpu")
    return models.module(experiment["name"]).Predictor.load(run.folder)


def evaluate_run(run: Run, place: Place, watch: Watch) -> tuple[dict[str, Any], dict[str, Any]]:
    """The test metrics of a finished run's weights, measured now, and those of its receipt."""
    experiment = run.experiment()
    loaded = predictor(run)
    dataset = open_data(experiment["data"]["name"], place, watch)
    batches = blocks(
        dataset.splits["test"], loaded.preprocess, experiment["training"]["evaluation_batch"]
    )
    receipt = run.receipt
    assert receipt  # or the predictor would not have loaded
    return metrics(*probabilities(loaded.model, batches)), receipt["results"]["metrics"]["test"]


class Recorder:
    """Writes what happens into the run's trace and metrics, and tells it on."""

    def __init__(self, run: Run, flat: FlatParameters, batches: Batches, watch: Watch, step: int):
        self.flat, self.batches, self.watch, self.last_step = flat, batches, watch, step
        self.trace = Trace(run.folder / "trace.bin", step)
        self.journal = Journal(run.folder / "metrics.jsonl", step)

    def step(self, step: int, loss: float, batch: int, rate: float) -> None:
        flat = self.flat
        self.trace.append(
            self.batches.ids_digest(step - 1),
            batch,
            loss,
            flat.row.cpu().numpy(),
            [flat.values.cpu().numpy(), flat.buffers.cpu().numpy()],
        )
        self.last_step, self.rate = step, rate
        self.watch.step(step, loss)

    def epoch(self, epoch: int, step: int, better: bool, validation: dict[str, Any]) -> None:
        self.trace.write()
        losses = trace.read(self.trace.path)["loss"][-self.batches.steps_per_epoch :]
        row = {
            "epoch": epoch,
            "step": step,
            "better": better,
            "rate": self.rate,
            "train": {"loss": float(np.mean(losses))},
            "validation": {name: validation[name] for name in ("accuracy", "f1", "loss")},
        }
        self.journal.append(row)
        self.watch.epoch(row)

    def mark(self) -> dict[str, Any]:
        """What a checkpoint must know of the files beside it."""
        self.trace.write()
        return {"trace": self.trace.digest()}

    def flush(self) -> None:
        """Have on disk all that a checkpoint relies on."""
        self.trace.flush()
        self.journal.flush()

    def close(self) -> None:
        self.trace.close()
        self.journal.close()


def _resume(
    training: Training, checkpoints: Checkpoints, run: Run, batches: Batches, watch: Watch
) -> Recorder:
    """Bring back the newest state that is whole, with its trace and its best weights; or begin."""
    for snapshot in checkpoints.newest():
        best = snapshot.state["progress"]["best_step"]
        try:
            if best is not None:
                checkpoints.read(best)
            recorder = Recorder(run, training.flat, batches, watch, snapshot.step)
        except RunError as error:
            watch.say(f"warning: {error} Going back to before it.")
            continue
        if recorder.trace.digest() == snapshot.state["trace"]:
            training.restore(snapshot)
            return recorder
        recorder.close()
        watch.say(f"warning: {recorder.trace.path}: altered before step {snapshot.step}.")
    return Recorder(run, training.flat, batches, watch, 0)


def _due(every: int, seconds: float) -> Callable[[int], bool]:
    """Whether a checkpoint is due at a step, by their number or by the clock."""
    last = time.monotonic()

    def due(step: int) -> bool:
        nonlocal last
        if step % every == 0 or 0 < seconds <= time.monotonic() - last:
            last = time.monotonic()
            return True
        return False

    return due
