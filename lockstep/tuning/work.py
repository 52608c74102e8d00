"""Training the trials of a study, and looking on."""

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from lockstep.config.recipe import read_value
from lockstep.ground import yaml_text
from lockstep.ground.console import number
from lockstep.ground.errors import Diverged, Interrupted, LockstepError, SettingError
from lockstep.ground.files import write_atomically
from lockstep.ground.processes import follow_parent
from lockstep.ground.watch import Row, Watch
from lockstep.records.receipt import metrics_of
from lockstep.records.run import Run
from lockstep.tuning.study import Study, finished

Train = Callable[[dict[str, Any], Watch], Run]


class GivenUp(Exception):
    """A trial that is not worth training further."""


class Judge(Watch):
    """Reports a trial's validation curve to the study and ends its training if it is hopeless."""

    def __init__(self, study: Study, trial: Trial, monitor: str, runs: Path):
        self._study, self._trial, self._monitor, self._runs = study, trial, monitor, runs
        self._values: dict[int, float] = {}

    def begin(self, run: str, step: int, *_: int) -> None:
        begun = Run(self._runs / run)
        self._epochs = begun.experiment()["training"]["epochs"]
        self.judge([row for row in begun.metrics() if row["step"] <= step])

    def epoch(self, row: Row) -> None:
        self.judge([row])

    def judge_finished(self, run: Run) -> None:
        """Look at a run that was finished before this study looked on; raises GivenUp."""
        self._epochs = run.experiment()["training"]["epochs"]
        self.judge(run.metrics())

    def judge(self, rows: Sequence[Row]) -> None:
        """Look at epochs that were not looked at yet; raises GivenUp before the last of them."""
        for row in rows:
            if (epoch := row["epoch"]) not in self._values:
                value = row["validation"][self._monitor]
                self._values[epoch] = math.nan if value is None else value
                if epoch not in self._study.reported(self._trial):
                    self._trial.report(self._values[epoch], epoch)
                hopeless = self._study.is_hopeless(self._trial.number, self._values)
                if hopeless and epoch < self._epochs:
                    raise GivenUp


def work(study: Study, total: int, train: Train, monitor: str, runs: Path) -> None:
    """Train trials of the study until the first so many have ended.

    ``train(settings, watch)`` makes the run of a trial or finds it finished. A trial whose settings
    do not go together, or whose training diverges, has failed; any other error is raised.
    """
    while not study.is_done(total):
        trial = study.claim(total)
        if trial is None:
            time.sleep(0.2)
            continue
        with study.working(trial) as tried:
            judge = Judge(study, trial, monitor, runs)
            try:
                run = train(tried, judge)
                judge.judge_finished(run)
            except GivenUp:
                study.end(trial, pruned=True)
            except (Diverged, SettingError) as error:
                trial.set_user_attr("failed", str(error).splitlines()[0])
                study.end(trial)
            else:
                receipt = run.finished_receipt()
                results, metrics = receipt["results"], metrics_of(receipt)
                # Also for those who have not the run itself, as it is on another machine.
                trial.set_user_attr("run", run.name)
                trial.set_user_attr("weights_sha256", results["weights_sha256"])
                trial.set_user_attr("test", metrics[f"test.{monitor}"])
                trial.set_user_attr("seconds", receipt["timing"]["seconds"])
                value = metrics[f"validation.{monitor}"]
                if value is None:
                    trial.set_user_attr("failed", f"validation {monitor} is not finite")
                study.end(trial, value)


def follow(study: Study, total: int, parallel: int, words: Sequence[str], watch: Watch) -> None:
    """Run a number of worker processes on the study, and report each trial that ends.

    ``words`` are those of a worker, ``python -m lockstep ...``. Raises LockstepError if one fails.
    """
    command = [sys.executable, "-m", "lockstep", *words]
    told: set[int] = set()
    # In sessions of their own: a signal from the terminal reaches us alone, and we hand it on.
    workers = [
        subprocess.Popen(command, preexec_fn=follow_parent, start_new_session=True)
        for _ in range(parallel)
    ]
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        while not study.is_done(total):
            _tell(study, total, told, watch)
            if failed := next(filter(None, (worker.poll() for worker in workers)), None):
                raise LockstepError(
                    f"study {study.name}: a worker ended with code {failed}, the reason is "
                    "above; fix that and run the same command to resume."
                )
            time.sleep(0.2)
    except BaseException:
        for worker in workers:
            worker.terminate()  # it saves, and gives its trial back
        raise
    finally:
        for worker in workers:
            worker.wait()
        signal.signal(signal.SIGTERM, before)
        watch.end()
    _tell(study, total, told, watch)


def _stop(number: int, _: FrameType | None) -> None:
    raise Interrupted(number, "study stopped")


def _tell(study: Study, total: int, told: set[int], watch: Watch) -> None:
    trials = study.trials()[:total]
    for trial in trials:
        if trial.state.is_finished() and trial.number not in told:
            told.add(trial.number)
            watch.say(f"trial {trial.number}  {outcome(trial)}  {settings(trial)}")
    best = study.best(total)
    shown = f"{number(best.value)} (trial {best.number})" if best else ""
    watch.trials(finished(trials), total, shown)


def outcome(trial: FrozenTrial) -> str:
    """Return the outcome of a trial in a few words."""
    if trial.state == TrialState.COMPLETE:
        return number(trial.value)
    if trial.state == TrialState.PRUNED:
        return f"given up after epoch {max(trial.intermediate_values, default=0)}"
    return "failed" if trial.state == TrialState.FAIL else "not ended"


def settings(trial: FrozenTrial) -> str:
    """What a trial tried, on one line."""
    return " ".join(f"{key}={value}" for key, value in trial.params.items())


def write_recipe(
    base: Path, path: Path, first_lines: Sequence[str], overrides: Sequence[str]
) -> None:
    """A recipe like another, with overrides in it and without the space."""
    content = yaml_text.load(base.read_text()) or {}
    content.pop("tune", None)
    for override in overrides:
        key, _, value = override.partition("=")
        section, _, name = key.strip().partition(".")
        content[section] = (content.get(section) or {}) | {name: read_value(value)}
    text = "".join(f"# {line}\n" for line in first_lines)
    text += yaml_text.dump(content, default_flow_style=None)
    write_atomically(path, text.encode())
