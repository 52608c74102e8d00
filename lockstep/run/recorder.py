"""What a run writes while it trains: trace, metrics, checkpoints; and how it finds them again."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import xxhash

from lockstep.ground import environment
from lockstep.ground.errors import CheckpointError, RunError, WriteError
from lockstep.ground.files import Owner
from lockstep.ground.watch import Row, Watch
from lockstep.records import trace
from lockstep.records.journal import Journal
from lockstep.records.run import Run
from lockstep.records.trace import Trace
from lockstep.run.making import Setup
from lockstep.training import launch
from lockstep.training.checkpoint import Checkpoints, Snapshot
from lockstep.training.metrics import Metrics, figures


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
        setup: Setup,
        watch: Watch,
        origin: dict[str, str],
        owner: Owner,
    ):
        self.run, self.watch, self.owner = run, watch, owner
        self.training, self.batches = setup.training, setup.batches
        self.settings, self.doubts = setup.experiment.training, set[str]()
        self._rate = 0.0  # of the last step
        self._monitor = setup.monitor
        self.origin = origin  # digests of what the run is set up with
        self._begun = dict[str, str]()  # and of what it was begun with, if it resumes
        self.notebook = environment.from_notebook()
        self._open, self._saved = ExitStack(), time.monotonic()
        self.checkpoints = Checkpoints(
            run.folder / "checkpoints", self.settings.keep_checkpoints, watch.say
        )

    def resume(self, steps: int) -> None:
        """Bring back the newest state that is whole, of a run of so many steps; or begin."""
        self._bring_back()
        self.began, self.first_step = time.monotonic(), self.training.progress.step
        self.last_step = self.first_step
        per_epoch, batch_size = self.batches.steps_per_epoch, self.batches.batch_size
        self.watch.begin(self.run.name, self.first_step, steps, per_epoch, batch_size)

    def _bring_back(self) -> None:
        snapshot = self.checkpoints.newest(self._open_if_usable)
        if snapshot is None:
            self._open_files(0)
            return
        self._begun = snapshot.state.get("origin", {})
        self._refuse_other_origin()
        self.training.restore(snapshot)
        self.doubts |= set(snapshot.state["doubts"])
        self.notebook |= snapshot.state["notebook"]
        self._rate = snapshot.state["rate"]

    def _open_if_usable(self, snapshot: Snapshot) -> None:
        """Open trace and metrics where a checkpoint was saved.

        Raises RunError if they were altered before it, or if the weights that it will end with are
        damaged.
        """
        progress = snapshot.state["progress"]
        if self.settings.keep == "best" and (best := progress["best_step"]) is not None:
            try:
                self.checkpoints.read(best)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error} These are the best weights so far, which training.keep=best ends "
                    "with, so no checkpoint after them can be used."
                ) from error
        self._open_files(snapshot.step, evaluated=not progress["awaits_evaluation"])
        for name, digest in self._files().items():
            if digest != snapshot.state[name]:
                self._open.close()
                raise RunError(
                    f"{self.run.folder / name}: was altered before step {snapshot.step}."
                )

    def begin(self, first_step: str) -> None:
        """Keep a digest of the run's first step, or compare it with that of who began the run."""
        self.origin["first step"] = first_step
        self._refuse_other_origin()

    def _refuse_other_origin(self) -> None:
        """Raise RunError if a run is set up otherwise than when it was begun."""
        for name in self._begun.keys() & self.origin.keys():
            if self.origin[name] != self._begun[name]:
                raise RunError(
                    f"{self.run.folder}: {name}: found other bits than when the run began, "
                    "from the same code, data and seed; make Preprocess, Model and loss "
                    "independent of the process, the order of sets, time and machine, then delete "
                    "the run and train it again."
                )

    def _files(self) -> dict[str, str]:
        """Fingerprints of the files that a checkpoint relies on, as they are now."""
        return {"trace.bin": self.trace.digest(), "metrics.jsonl": self.journal.digest()}

    def doubt(self, reasons: set[str]) -> None:
        """Keep why the run's level is lowered, and say what is new."""
        for reason in sorted(reasons - self.doubts):
            self.watch.say(f"level lowered to this machine: {reason}")
        self.doubts |= reasons

    def _open_files(self, step: int, *, evaluated: bool = True) -> None:
        with ExitStack() as opened:
            self.trace = Trace(self.run.folder / "trace.bin", step)
            opened.callback(self.trace.close)
            # A row of this very step may be of a later session, if the epoch awaits evaluation.
            self.journal = Journal(self.run.folder / "metrics.jsonl", step - (not evaluated))
            opened.callback(self.journal.close)
            self._open = opened.pop_all()

    def step(self, step: int, loss: float, batch: int, rate: float) -> None:
        """Write the step's fingerprint."""
        flat = self.training.flat
        frozen = flat.frozen.values() if self.training.after_step else ()
        moved = [parameter.detach().contiguous() for parameter in frozen]
        self.trace.append(
            self.batches.ids_digest(step - 1),
            batch,
            loss,
            flat.sums.cpu().numpy(),
            [tensor.cpu().numpy() for tensor in (flat.values, flat.buffers, *moved)],
        )
        self.last_step, self._rate = step, rate
        self.watch.step(step, loss)

    def epoch(self, epoch: int, step: int, better: bool, validation: Metrics) -> None:
        """Write the epoch's metrics."""
        if count := validation.get("not_finite"):
            self.watch.say(f"warning: {count} answers on the validation split are not numbers.")
        values, name = figures(validation), self._monitor(validation)
        for other in [other for other, value in values.items() if value is None]:
            self.watch.say(f"warning: validation {other} is not a finite number.")
        self.owner.check()
        self.trace.write()
        losses = trace.read(self.trace.path)["loss"][step - self.batches.steps_per_epoch : step]
        row: Row = {
            "epoch": epoch,
            "step": step,
            "better": better,
            "rate": self._rate,
            "train": {"loss": float(np.mean(losses))},
            "validation": {name: values.pop(name), **values},
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
        self.owner.check()
        self.trace.write()
        taken = snapshot()
        kept = self._files() | {
            "origin": self.origin,
            "doubts": sorted(self.doubts),
            "notebook": self.notebook,
            "rate": self._rate,
        }
        self.checkpoints.save(
            dataclasses.replace(taken, state=taken.state | kept),
            best=self.training.progress.best_step,
            flush=self._flush,
        )
        self.watch.saved(taken.step)
        if launch.is_watched():
            launch.note_saved(taken.step)

    def restore(self, step: int) -> None:
        """Go back to a step that was saved, when the last checkpoint is written."""
        with self._blaming_another():
            self.checkpoints.wait()
        self.training.restore(self.checkpoints.read(step))

    def confirm(self) -> None:
        """Raise RunError unless trace and metrics are what this process wrote, and no more."""
        self.owner.check()
        for name, digest in self._files().items():
            path = self.run.folder / name
            with path.open("rb") as file:
                if hashlib.file_digest(file, xxhash.xxh3_128).hexdigest() != digest:
                    raise RunError(
                        f"{path}: holds more or other rows than this process wrote, so no receipt "
                        "is written; make sure that nothing else writes to the run, then run the "
                        "same command again."
                    )

    def _flush(self) -> None:
        """Have on disk all that a checkpoint relies on."""
        self.trace.flush()
        self.journal.flush()

    def close(self) -> None:
        """Finish the write in flight, which flushes the files, and close them."""
        self.watch.end()
        with self._open, self._blaming_another():
            self.checkpoints.close()

    @contextmanager
    def _blaming_another(self) -> Iterator[None]:
        """Name another process that writes the run, if one has removed what was half written."""
        try:
            yield
        except WriteError:
            self.owner.check()
            raise

    def pace(self) -> tuple[int, float]:
        """Return the step where the last session resumed, and its samples a second up to now."""
        samples = (self.last_step - self.first_step) * self.batches.batch_size
        return self.first_step, round(samples / (time.monotonic() - self.began), 1)
