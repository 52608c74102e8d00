"""The story of a run: config -> data -> model -> training -> receipt, top to bottom."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from project import models
from project.config import Experiment
from project.data import catalog
from project.data.arrays import Dataset, open_dataset
from project.data.batches import Batches, Blocks
from project.data.fetch import fetch
from project.errors import EnvironmentMismatch, RunError
from project.files import (
    canonical_json,
    digest_of,
    held,
    key_of,
    publish_folder,
    readable_json,
    told_in_one_line,
    write_atomically,
)
from project.models import golden
from project.place import Place
from project.recorder import NullRecorder, Recorder, due
from project.records import environment, report, source, trace
from project.records.receipt import Run, identity, level, receipt
from project.training import profiles, selftest
from project.training.determinism import enforce, refuse_broken, reseed
from project.training.distributed import Workers, joined
from project.training.evaluation import Answers, metrics, probabilities
from project.training.loop import Training, train, update
from project.training.optimizer import Optimizer, learning_rate
from project.training.parameters import FlatParameters
from project.training.shards import ShardedGradient
from project.training.signals import stop_signal
from project.watch import Watch


def run_experiment(
    experiment: Experiment, place: Place, watch: Watch, until: int = 0
) -> Run | None:
    """Train what the experiment says, from the start or from where it was left, to its receipt.

    With ``until`` training stops at that step, saved and without a receipt. A finished run is
    returned as it is. In a worker that is not the first, which keeps the run's files, nothing is
    returned. Raises Interrupted when a signal asked to stop, after the state was saved; the same
    call goes on from there.
    """
    settings = experiment.training
    profiles.enter(settings.profile)
    enforce(settings.profile, settings.device)
    dataset = open_data(experiment.data.name, place, watch)
    files = files_that_run(experiment)  # once, as people edit while a run starts
    parts = what_decides(experiment, dataset, files)
    with joined(settings.shards, settings.device) as workers:
        if workers.spare:
            return None
        if not workers.first:
            _help(experiment, dataset, parts, workers, until)
            return None
        run, contents = _open_run(experiment, files, parts, place, watch)
        with held(run.folder, watch.say):
            finished = run.receipt is not None
            workers.broadcast_bytes(
                canonical_json({"identity": run.identity, "finished": finished})
            )
            if not finished:
                _write(run.folder, contents())  # what stands beside the results is what ran
                _train_to_receipt(Setup(experiment, dataset, workers), run, watch, until)
    return run


def what_decides(
    experiment: Experiment, dataset: Dataset, files: dict[str, bytes]
) -> dict[str, Any]:
    """All that decides the bits, by the parts of the identity; ``files`` are the source's."""
    profile = {"name": experiment.training.profile, "device": experiment.training.device}
    if experiment.training.profile == "native":
        profile["cpu"] = environment.cpu()["model"]
    if experiment.training.device == "cuda":
        profile["gpu"] = torch.cuda.get_device_name()
    return {
        "experiment": experiment.as_dict(bits_only=True),
        "source": source.digests(files),
        "data": dataset.digest,
        "packages": environment.packages().as_identity(),
        "profile": profile,
    }


def files_that_run(experiment: Experiment) -> dict[str, bytes]:
    """Name and content of each source file that a training of the experiment runs."""
    model = f"project.models.{experiment.model}.__init__"
    return source.files_that_run("project.experiment", model)


def open_data(name: str, place: Place, watch: Watch) -> Dataset:
    """A data set of the catalog, fetched and prepared if this machine has it not yet."""
    entry = catalog.entry(name)
    return open_dataset(
        entry,
        place.data / "arrays",
        lambda wanted: fetch(wanted, place.data, watch.say, watch.bar),
        watch.say,
    )


def _open_run(
    experiment: Experiment,
    files: dict[str, bytes],
    parts: dict[str, Any],
    place: Place,
    watch: Watch,
) -> tuple[Run, Callable[[], dict[str, bytes]]]:
    """The run's folder, made if it is not there, and how to get the files that it begins with."""
    identifier = identity(**parts)
    if drift := environment.packages().drift:
        watch.say(
            f"WARNING: {len(drift)} packages are not as locked ({'; '.join(drift[:3])}...); this "
            "is in the run's identity and receipt. `invoke doctor` lists all, ./workbench mends it."
        )
    name = f"{experiment.model}-{experiment.recipe}-s{experiment.seed}-{identifier['digest'][:8]}"
    run = Run(place.runs / name)

    @functools.cache  # a finished run that is only reported wants none of them
    def contents() -> dict[str, bytes]:
        # What training runs is in the identity; with the rest the archive can train by itself.
        kept = source.files_that_run("project.__main__") | files
        kept |= source.data_files(catalog.file_of(experiment.data.name), selftest.GOLDEN)
        return {
            "experiment.yaml": experiment.as_yaml(),
            "source.zip": source.archive(kept),
            "parts.json": readable_json(parts),
            "identity.json": readable_json(identifier),
        }

    with told_in_one_line(place.runs):
        place.runs.mkdir(parents=True, exist_ok=True)
        with held(place.runs, lambda _: None):
            if not run.folder.exists():
                publish_folder(run.folder, lambda part: _write(part, contents()))
    if run.identity != identifier:
        found = (run.identity or {}).get("digest", "none")
        raise RunError(
            f"{run.folder}: holds a run of identity {found[:12]}, wanted "
            f"{identifier['digest'][:12]}; it was put there by hand. Move it away, or name another "
            "folder (--runs DIR)."
        )
    return run, contents


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    """Write a run's first files, or those of them that were altered since."""
    for name, content in contents.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != content:
            write_atomically(folder / name, content)


class Setup:
    """All that a run trains with, made alike in each of its workers."""

    def __init__(self, experiment: Experiment, dataset: Dataset, workers: Workers):
        settings, parts = experiment.training, models.module(experiment.model)
        self.experiment, self.dataset, self.workers = experiment, dataset, workers
        split = dataset.splits["train"].first(experiment.data.limit)
        self.preprocess = parts.Preprocess.fit(
            experiment.settings, split.inputs, list(dataset.labels)
        )
        reseed(key_of(experiment.seed, "weights"))
        self.model = parts.Model(experiment.settings, len(dataset.labels)).to(settings.device)
        refuse_broken(self.model, settings.device)
        self.training = Training(
            flat := FlatParameters(self.model),
            Optimizer(
                flat,
                name=settings.optimizer,
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
            ),
            clip=settings.clip,
            average=settings.average,
        )
        self.batches = Batches(
            split,
            lambda raw, generator: self.preprocess.augment(self.preprocess(raw), generator),
            batch_size=settings.batch_size,
            shards=settings.shards,
            seed=experiment.seed,
        )
        self.gradient = ShardedGradient(
            self.model,
            flat,
            parts.loss,
            lambda step, shard: reseed(key_of(experiment.seed, "dropout", step, shard)),
            shards=settings.shards,
            workers=workers,
        )
        self.steps = settings.epochs * self.batches.steps_per_epoch

    def rehearse(self) -> None:
        """Train on one shard, from its examples to the update, and forget it again."""
        before, shards = self.training.snapshot(), self.batches.shards
        inputs, labels = self.batches.at(0, shards - 1)
        alone = ShardedGradient(
            self.model, self.training.flat, self.gradient.loss_of, lambda *_: reseed(0), shards=1
        )
        loss = alone.compute(0, len(labels), [(inputs, labels)], False).loss
        update(self.training, 0.0, loss)
        self.training.restore(before)

    def doubts(self) -> set[str]:
        """Why the bits of this process may differ on another CPU: a sentence for each reason."""
        settings = self.experiment.training
        found = set()
        if (settings.profile, settings.device) == ("portable", "cpu"):
            with selftest.Operations() as operations:
                self.rehearse()
            found |= {f"operation {name}: not verified" for name in operations.unverified()}
            found |= set(selftest.failing())
        if (threads := torch.get_num_threads()) > 1:
            found.add(f"threads: the model set {threads}, wanted 1")
        if self.workers.all_gather(np.array([bool(found)], np.float32)).any() and not found:
            found.add("another worker of the run has doubts")
        return found

    def answers(self, name: str) -> Answers:
        """What the present weights answer on a split, and what would be right."""
        blocks = Blocks(
            self.dataset.splits[name], self.preprocess, self.experiment.training.evaluation_batch
        )
        return probabilities(self.model, blocks, len(self.dataset.labels), self.workers)

    def evaluate(self) -> tuple[float, dict[str, Any]]:
        """A score, the higher the better, and the validation metrics."""
        found, monitor = metrics(*self.answers("validation")), self.experiment.training.monitor
        return (-found[monitor] if monitor == "loss" else found[monitor]), found

    def weights(self) -> bytes:
        """The content of ``weights.safetensors``, with the order of the tensors in the model."""
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.model.state_dict().items()
        }
        content: bytes = safetensors.torch.save(tensors, {"order": json.dumps(list(tensors))})
        return content

    def stored(self) -> bytes:
        """The content of ``preprocess.json``: the settings and all that was fitted."""
        config = dataclasses.asdict(self.experiment.settings)
        return readable_json(
            {"model": self.experiment.model, "config": config} | self.preprocess.state()
        )


def train_setup(setup: Setup, recorder: NullRecorder, until: int) -> bool:
    """Train from the recorder's last state to the end, or ``until`` a step; whether it is the end.

    At the end the model has the weights that are to be kept.
    """
    settings, training, batches = setup.experiment.training, setup.training, setup.batches
    with ExitStack() as stack:
        stack.callback(recorder.close)
        recorder.resume(setup.steps)
        training.broadcast(setup.workers)
        recorder.doubt(setup.doubts())
        # Closed however training ends: Python does not exit before its loaders do.
        steps = batches.steps(
            training.progress.step, setup.steps, setup.gradient.block, settings.loaders
        )
        train(
            training,
            setup.gradient,
            stack.enter_context(closing(steps)),
            steps=setup.steps,
            until=min(until or setup.steps, setup.steps),
            steps_per_epoch=batches.steps_per_epoch,
            learning_rate=learning_rate(
                peak=settings.lr,
                schedule=settings.schedule,
                warmup=settings.warmup,
                steps=setup.steps,
            ),
            evaluate=setup.evaluate,
            patience=settings.patience,
            observer=recorder,
            save=recorder.save,
            save_is_due=due(settings.checkpoint_every, settings.checkpoint_seconds),
            stop_signal=stack.enter_context(stop_signal()),
        )
        last = training.progress
        if last.step < setup.steps and not last.stopped_early:
            return False
        recorder.restore(last.best_step or last.step if settings.keep == "best" else last.step)
        training.broadcast(setup.workers)
        return True


def _help(
    experiment: Experiment,
    dataset: Dataset,
    parts: dict[str, Any],
    workers: Workers,
    until: int,
) -> None:
    """What a worker does that is not the first: its part of the training, if there is any."""
    first, mine = json.loads(workers.broadcast_bytes()), identity(**parts)
    if different := [name for name in parts if mine[name] != first["identity"].get(name)]:
        raise EnvironmentMismatch(
            f"worker {workers.rank}: found another {different[0]} than the first worker's, wanted "
            "the same one: bring commit, settings, data and packages alike to all machines."
        )
    if first["finished"]:
        return
    setup = Setup(experiment, dataset, workers)
    if train_setup(setup, NullRecorder(), until):
        with setup.training.kept_weights():
            setup.answers("validation"), setup.answers("test")


def _train_to_receipt(setup: Setup, run: Run, watch: Watch, until: int) -> None:
    # Not by the clock, which people and machines set back.
    experiment, dataset, began = setup.experiment, setup.dataset, time.monotonic()
    environment.git()  # remembered now, because people commit while a run trains
    recorder = Recorder(run, setup.training, setup.batches, watch, experiment.training)
    if not train_setup(setup, recorder, until):
        return

    with setup.training.kept_weights():
        weights = setup.weights()
        validation, test = metrics(*setup.answers("validation")), setup.answers("test")
    stored, steps = setup.stored(), recorder.last_step
    answers = golden.made(experiment.model, stored, weights, dataset.splits["test"].inputs)
    outcome = {
        "steps": steps,
        "epochs": steps // setup.batches.steps_per_epoch,
        "kept_step": setup.training.progress.step,
        "weights_sha256": digest_of(weights),
        "preprocess_sha256": digest_of(stored),
        "trace_sha256": digest_of(run.folder / "trace.bin"),
        "metrics_sha256": digest_of(run.folder / "metrics.jsonl"),
        "source_sha256": digest_of(run.folder / "source.zip"),
        "golden_sha256": digest_of(answers),
        "labels": list(dataset.labels),
        "data_version": dataset.version,
        "metrics": {"validation": validation, "test": metrics(*test)},
        "data": trace.epochs_seen(run.folder / "trace.bin", setup.batches.steps_per_epoch),
    }
    timing = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - began, 3),
        "workers": setup.workers.count,
    } | recorder.pace()
    facts = environment.facts(torch.get_num_threads(), torch.__version__)
    facts["notebook"] = recorder.notebook  # also if only an earlier part was trained from one
    content = receipt(run.name, run.identity or {}, facts, outcome, timing, _level(recorder))
    show = models.module(experiment.model).Preprocess.show
    mistakes = report.worst_mistakes(
        *test, dataset.labels, lambda row: show(dataset.splits["test"].inputs[row])
    )
    page = report.page(content, run.metrics(), trace.read(run.folder / "trace.bin"), mistakes)
    write_atomically(run.folder / "weights.safetensors", weights)
    write_atomically(run.folder / "preprocess.json", stored)
    write_atomically(run.folder / "golden.json", answers)
    write_atomically(run.folder / "report.html", page)
    # Last, because a run with a receipt is a finished run.
    write_atomically(run.folder / "receipt.json", content)


def _level(recorder: Recorder) -> dict[str, Any]:
    settings = recorder.settings
    gpu = torch.cuda.get_device_name() if settings.device == "cuda" else None
    cpu = environment.cpu()["model"]
    return level(settings.profile, settings.device, cpu, gpu, sorted(recorder.doubts))


def evaluate_run(
    run: Run, predictor: Any, place: Place, watch: Watch
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The test metrics of a finished run's Predictor, measured now, and those of its receipt."""
    experiment = run.experiment()
    dataset = open_data(experiment["data"]["name"], place, watch)
    blocks = Blocks(
        dataset.splits["test"], predictor.preprocess, experiment["training"]["evaluation_batch"]
    )
    receipt = run.receipt
    assert receipt  # or the predictor would not have loaded
    found = probabilities(predictor.model, blocks, len(dataset.labels))
    return metrics(*found), receipt["results"]["metrics"]["test"]
