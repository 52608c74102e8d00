"""What a run writes while it trains: trace, metrics, checkpoints; and how it finds them again."""

import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from lockstep.config.experiment import Training as Settings
from lockstep.data.batches import Batches
from lockstep.ground import environment
from lockstep.ground.errors import RunError
from lockstep.ground.watch import Row, Watch
from lockstep.records import trace
from lockstep.records.journal import Journal
from lockstep.records.run import Run
from lockstep.records.trace import Trace
from lockstep.training.checkpoint import Checkpoints, Snapshot
from lockstep.training.evaluation import Metrics
from lockstep.training.loop import Training


class NullRecorder:
    """What a worker keeps that is not the first: nothing."""

    def resume(self, steps: int) -> None:
        """Nothing to bring back; the first worker tells where to go on."""

    def is_due(self, step: int) -> bool:  # noqa: ARG002
        """Return whether a checkpoint is due: never."""
        return False

    def step(self, step: int, loss: float, batch: int, rate: float) -> None:
        """A step is done."""

    def epoch(self, epoch: int, step: int, better: bool, validation: Metrics) -> None:
        """An epoch is done."""

    def save(self, snapshot: Callable[[], Snapshot]) -> None:
        """The state is worth keeping."""

    def restore(self, step: int) -> None:
        """Go back to a step that was saved."""

    def close(self) -> None:
        """All is done."""


class Recorder(NullRecorder):
    """Keeps a run's files while it trains, and tells those who look on."""

    def __init__(
        self,
        run: Run,
        training: Training,
        batches: Batches,
        watch: Watch,
        settings: Settings,
        origin: dict[str, str],
    ):
        self.run, self.training, self.batches, self.watch = run, training, batches, watch
        self.settings, self.doubts = settings, set[str]()
        self.origin = origin  # digests of what the run is set up with
        self.notebook = environment.from_notebook()
        self._open, self._saved = ExitStack(), time.monotonic()
        self.checkpoints = Checkpoints(
            run.folder / "checkpoints", settings.keep_checkpoints, watch.say
        )

    def resume(self, steps: int) -> None:
        """Bring back the newest state that is whole, of a run of so many steps; or begin."""
        self._bring_back()
        self.began, self.first_step = time.monotonic(), self.training.progress.step
        self.last_step = self.first_step
        per_epoch, batch_size = self.batches.steps_per_epoch, self.batches.batch_size
        self.watch.begin(self.run.name, self.first_step, steps, per_epoch, batch_size)

    def _bring_back(self) -> None:
        for snapshot in self.checkpoints.newest():
            best = snapshot.state["progress"]["best_step"]
            try:
                if best is not None:
                    self.checkpoints.read(best)
                self._open_files(snapshot.step)
            except RunError as error:
                self.watch.say(f"warning: {error} Going back to before it.")
                continue
            altered = [
                name for name, digest in self._files().items() if digest != snapshot.state[name]
            ]
            if not altered:
                self._refuse_other_origin(snapshot)
                self.training.restore(snapshot)
                self.doubts |= set(snapshot.state["doubts"])
                self.notebook |= snapshot.state["notebook"]
                return
            self._open.close()
            name = self.run.folder / altered[0]
            self.watch.say(f"warning: {name}: altered before step {snapshot.step}.")
        self._open_files(0)

    def _refuse_other_origin(self, snapshot: Snapshot) -> None:
        """Raise RunError if a run is set up otherwise than when it was begun."""
        for name, digest in snapshot.state.get("origin", {}).items():
            if self.origin[name] != digest:
                raise RunError(
                    f"{self.run.folder}: its {name} differ from those that it was begun with, from "
                    "the same code, data and seed; make Preprocess.fit and Model independent of "
                    "hash order, time and machine, then delete the run and train it again."
                )

    def _files(self) -> dict[str, str]:
        """Fingerprints of the files that a checkpoint relies on, as they are now."""
        return {"trace.bin": self.trace.digest(), "metrics.jsonl": self.journal.digest()}

    def doubt(self, reasons: set[str]) -> None:
        """Keep why the run's level is lowered, and say what is new."""
        for reason in sorted(reasons - self.doubts):
            self.watch.say(f"level lowered to this machine: {reason}")
        self.doubts |= reasons

    def _open_files(self, step: int) -> None:
        with ExitStack() as opened:
            self.trace = Trace(self.run.folder / "trace.bin", step)
            opened.callback(self.trace.close)
            self.journal = Journal(self.run.folder / "metrics.jsonl", step)
            opened.callback(self.journal.close)
            self._open = opened.pop_all()

    def step(self, step: int, loss: float, batch: int, rate: float) -> None:
        """Write the step's fingerprint."""
        flat = self.training.flat
        self.trace.append(
            self.batches.ids_digest(step - 1),
            batch,
            loss,
            flat.sums.cpu().numpy(),
            [flat.values.cpu().numpy(), flat.buffers.cpu().numpy()],
        )
        self.last_step, self._rate = step, rate
        self.watch.step(step, loss)

    def epoch(self, epoch: int, step: int, better: bool, validation: Metrics) -> None:
        """Write the epoch's metrics."""
        if count := validation.get("not_finite"):
            self.watch.say(f"warning: {count} answers on the validation split are not numbers.")
        self.trace.write()
        losses = trace.read(self.trace.path)["loss"][-self.batches.steps_per_epoch :]
        row: Row = {
            "epoch": epoch,
            "step": step,
            "better": better,
            "rate": self._rate,
            "train": {"loss": float(np.mean(losses))},
            "validation": {
                "accuracy": validation["accuracy"],
                "f1": validation["f1"],
                "loss": validation["loss"],
            },
        }
        self.journal.append(row)
        self.watch.epoch(row)

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is due at a step, by its number or by the clock."""
        every, seconds = self.settings.checkpoint_every, self.settings.checkpoint_seconds
        if step % every == 0 or 0 < seconds <= time.monotonic() - self._saved:
            self._saved = time.monotonic()
            return True
        return False

    def save(self, snapshot: Callable[[], Snapshot]) -> None:
        """Start writing a checkpoint, which knows the files beside it as they are now."""
        self.trace.write()
        taken = snapshot()
        kept = self._files() | {
            "origin": self.origin,
            "doubts": sorted(self.doubts),
            "notebook": self.notebook,
        }
        self.checkpoints.save(
            dataclasses.replace(taken, state=taken.state | kept),
            best=self.training.progress.best_step,
            flush=self._flush,
        )
        self.watch.saved(taken.step)

    def restore(self, step: int) -> None:
        """Go back to a step that was saved, when the last checkpoint is written."""
        self.checkpoints.wait()
        self.training.restore(self.checkpoints.read(step))

    def _flush(self) -> None:
        """Have on disk all that a checkpoint relies on."""
        self.trace.flush()
        self.journal.flush()

    def close(self) -> None:
        """Finish the write in flight, which flushes the files, and close them."""
        self.watch.end()
        with self._open:
            self.checkpoints.close()

    def pace(self) -> tuple[int, float]:
        """Return the step where the last session resumed, and its samples a second up to now."""
        samples = (self.last_step - self.first_step) * self.batches.batch_size
        return self.first_step, round(samples / (time.monotonic() - self.began), 1)
