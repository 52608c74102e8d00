"""Ends a run: final answers, golden examples, report, and the receipt as the last file."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM

import torch

from lockstep.answers import golden
from lockstep.config import recipe
from lockstep.config.experiment import Experiment
from lockstep.ground import environment, home, wheels
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import EnvironmentMismatch, Interrupted, ModelError, SettingError
from lockstep.ground.files import write_atomically
from lockstep.records import report, trace
from lockstep.records.receipt import Results, Splits, Timing, receipt
from lockstep.records.run import Run
from lockstep.run.level import promise
from lockstep.run.making import Setup
from lockstep.run.recorder import Recorder
from lockstep.training.evaluation import EvaluationStopped, Measurement
from lockstep.training.metrics import Metrics


def end(
    setup: Setup, run: Run, recorder: Recorder, began: float, stop_signal: Callable[[], int]
) -> None:
    """Write all results of a trained run, and last its receipt; ``began`` is monotonic time.

    Raises Interrupted after a signal while it evaluates; the rest takes a moment and is done.
    """
    validation, test = final_measures(setup, stop_signal)
    with setup.training.kept_weights():
        weights = setup.weights()
    if count := test.metrics.get("not_finite"):
        recorder.watch.say(f"warning: {count} answers on the test split are not numbers.")
    _refuse_drift(recorder, setup, validation.metrics)
    experiment, examples = setup.experiment, setup.dataset.splits["test"].inputs
    stored = setup.stored()
    files = {
        "weights.safetensors": weights,
        "preprocess.json": stored,
        "golden.json": golden.make(experiment.model, stored, weights, examples),
    }
    recorder.confirm()
    splits: Splits = {"validation": validation.metrics, "test": test.metrics}
    results = _results(setup, run.folder, recorder.last_step, files, splits)
    resumed_at_step, samples_per_second = recorder.pace()
    timing: Timing = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - began, 3),
        "workers": setup.workers.count,
        "resumed_at_step": resumed_at_step,
        "samples_per_second": samples_per_second,
    }
    facts = environment.facts(torch.get_num_threads(), torch.__version__)
    facts["notebook"] = recorder.notebook  # also if only an earlier part was trained from one
    facts["drift"] += [
        f"{name}: installed files were edited"
        for name, (_, known) in run.parts["packages"].items()
        if known.startswith(wheels.EDITED)
    ]
    level = promise(experiment.training, recorder.doubts)
    content = receipt(run.name, run.identity, facts, results, timing, level, experiment.accept)
    for name, written in files.items():
        write_atomically(run.folder / name, written)
    write_atomically(run.folder / "report.html", _report(setup, run, content, test))
    recorder.confirm()
    # Last, because a run with a receipt is a finished run.
    write_atomically(run.folder / "receipt.json", content)


def final_measures(setup: Setup, stop_signal: Callable[[], int]) -> tuple[Measurement, Measurement]:
    """Measure the kept weights on the validation and the test split, in each worker.

    Raises Interrupted after a signal to any of the workers.
    """
    try:
        with setup.training.kept_weights():
            return setup.measure("validation", stop_signal), setup.measure("test", stop_signal)
    except EvaluationStopped:
        stopped = "stopped in the final evaluation; the last checkpoint is kept"
        raise Interrupted(stop_signal() or SIGTERM, stopped) from None


def _refuse_drift(recorder: Recorder, setup: Setup, validation: Metrics) -> None:
    """Hold the validation of the kept step against its row, which an earlier process may have made.

    Raises EnvironmentMismatch if they differ where all machines promise the same bits: code,
    packages or hardware changed in between. Elsewhere it lowers the level of the run.
    """
    step, settings = setup.training.progress.step, setup.experiment.training
    row = next((row for row in recorder.run.metrics() if row["step"] == step), None)
    if row is None:
        return
    for name, before in row["validation"].items():
        if (now := validation.get(name)) == before:
            continue
        reason = f"validation {name} of step {step} is {now}, and was {before} while training"
        if recorder.doubts or (settings.profile, settings.device) != ("portable", "cpu"):
            recorder.doubt({reason})
            return
        raise EnvironmentMismatch(
            f"{recorder.run.name}: {reason}, expected the same; packages or files changed since. "
            "`invoke doctor` looks for them; delete the run and train again."
        )


def _results(
    setup: Setup, folder: Path, steps: int, files: dict[str, bytes], splits: Splits
) -> Results:
    """The results of a run whose other files are in the folder already."""
    per_epoch = setup.batches.steps_per_epoch
    return {
        "steps": steps,
        "epochs": steps // per_epoch,
        "kept_step": setup.training.progress.step,
        "weights_sha256": digest_of(files["weights.safetensors"]),
        "trace_sha256": digest_of(folder / "trace.bin"),
        "preprocess_sha256": digest_of(files["preprocess.json"]),
        "metrics_sha256": digest_of(folder / "metrics.jsonl"),
        "source_sha256": digest_of(folder / "source.zip"),
        "golden_sha256": digest_of(files["golden.json"]),
        "labels": [str(label) for label in setup.dataset.labels],  # a catalog may have numbers
        "data_version": setup.dataset.version,
        "data": trace.epochs_seen(folder / "trace.bin", per_epoch),
        "metrics": splits,
        "monitor": setup.monitor(splits["validation"]),
    }


def _report(setup: Setup, run: Run, receipt: bytes, test: Measurement) -> bytes:
    show = home.here().module(setup.experiment.model).Preprocess.show
    inputs = setup.dataset.splits["test"].inputs
    answers = report.Answers(
        setup.dataset.kind,
        setup.dataset.labels,
        test.outputs,
        test.target,
        lambda row: show(inputs[row]),
    )
    steps = trace.read(run.folder / "trace.bin")
    return report.page(
        receipt,
        run.metrics(),
        steps,
        answers.mistakes(),
        answers.pairs(),
        settings(setup.experiment),
        commands(setup.experiment, run.name),
    )


def settings(experiment: Experiment) -> list[list[str]]:
    """Return the settings that differ from their defaults as the report shows them."""
    return [
        [key, *map(recipe.written_value, values)] for key, *values in recipe.changed(experiment)
    ]


def commands(experiment: Experiment, run: str) -> list[str]:
    """Return the commands that train a run again: in this clone, and from its recorded source.

    Without a recipe that it can be made of, as one that was edited while it trained, there is the
    second alone.
    """
    here, again = home.here(), f"invoke reproduce {shlex.quote(run)}"
    try:
        path = here.recipe(experiment.model, experiment.recipe)
        overrides = recipe.overrides_of(experiment, path)
        elsewhere = here.package != home.package_of_clone()
    except (ModelError, SettingError, OSError):
        return [again]
    words = ["invoke", "train", "--model", experiment.model, "--recipe", experiment.recipe]
    words += ["--seed", str(experiment.seed)]
    for override in overrides:
        words += ["--set", override]
    if elsewhere:
        words.insert(0, f"LOCKSTEP_PROJECT={here.package}")
    return [shlex.join(words), again]
