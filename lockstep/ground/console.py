"""Output for people: a progress bar on a terminal, plain lines elsewhere, tables."""

import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TextIO

from lockstep.ground.errors import harmless
from lockstep.ground.watch import Row, Watch


def show(
    text: object = "", *, file: TextIO | None = None, end: str = "\n", flush: bool = False
) -> None:
    """Print for people, who may read it on a terminal: what would command that is escaped."""
    print(harmless(str(text)), file=file, end=end, flush=flush)


def watch() -> Watch:
    """Return a watch: a progress bar if standard error is a terminal, else plain lines."""
    return _Bar() if sys.stderr.isatty() else Lines(sys.stderr)


class Lines(Watch):
    """One line when training starts, one for each epoch, and one every ten seconds between."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._last = stream, time.monotonic()

    def say(self, line: str) -> None:
        try:
            show(line, file=self._stream, flush=True)
        except BrokenPipeError:  # the reader is gone, which is no reason to end a training
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def doing(self, line: str) -> None:
        self.say(line)

    def begin(self, run: str, step: int, steps: int, steps_per_epoch: int, batch: int) -> None:
        self._first, self._steps, self._per_epoch = step, steps, steps_per_epoch
        self._batch, self._began = batch, time.monotonic()
        self.say(
            f"{run}: " + (f"resumes at step {step:,}" if step else "starts") + f" of {steps:,}"
        )

    def step(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._last >= 10:
            self._last = now
            self.say(f"step {step:,} of {self._steps:,}  loss {loss:.4f}  {self._speed(step)}")

    def epoch(self, row: Row) -> None:
        self._last = time.monotonic()
        self.say(_epoch_line(row, self._steps // self._per_epoch) + f"  {self._speed(row['step'])}")

    def _speed(self, step: int) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        return f"{(step - self._first) * self._batch / seconds:,.0f} samples/s"


def _epoch_line(row: Row, epochs: int) -> str:
    validation = dict(row["validation"])
    shown = {"loss": validation.pop("loss")} | dict(list(validation.items())[:1])
    metrics = "  ".join(f"{name} {number(value)}" for name, value in shown.items())
    return (
        f"epoch {row['epoch']:>3} of {epochs}  training loss {row['train']['loss']:.4f}  "
        f"validation {metrics}" + ("  *" if row["better"] else "")
    )


def number(value: float | None) -> str:
    """Return a metric in a few digits: four after the point, or four in all."""
    if value is None:
        return "not finite"
    return f"{value:.4f}" if 1e-2 <= abs(value) < 1e6 or value == 0 else f"{value:.4g}"


def time_left(done: int, remaining: int, seconds: float) -> str:
    """Return how long the remaining steps take if they take as long as those done so far.

    The mean over the session holds evaluations and checkpoints, and one slow moment hardly moves
    it. Before the first step is done there is no estimate.
    """
    if done <= 0:
        return "-:--:--"
    return str(timedelta(seconds=round(max(remaining, 0) * seconds / done)))


class _Bar(Watch):
    """A live bar: epoch, step, loss, samples a second, time left, last checkpoint."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._progress: Any = None
        self._status: Any = None
        self._drawn = 0.0

    def say(self, line: str) -> None:
        self._console.print(harmless(line), markup=False, highlight=False)

    def doing(self, line: str) -> None:
        from rich.markup import escape

        if self._status is None:
            self._status = self._console.status(escape(harmless(line)))
            self._status.start()
        self._status.update(escape(harmless(line)))

    def bar(self, title: str) -> Any:
        return _DownloadBar(self._console, title)

    def begin(self, run: str, step: int, steps: int, steps_per_epoch: int, batch: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
        )

        self.say(run)
        self._per_epoch, self._epochs, self._batch = (
            steps_per_epoch,
            steps // steps_per_epoch,
            batch,
        )
        self._first, self._began, self._saved = step, time.monotonic(), step
        # Drawn by our own steps, not by a thread that would compete with them.
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[speed]:,.0f} samples/s"),
            TextColumn("{task.fields[left]}"),
            TextColumn("saved {task.fields[saved]}"),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task(
            "",
            total=steps,
            completed=step,
            epoch=1,
            epochs=self._epochs,
            loss=0,
            speed=0,
            left=time_left(0, steps - step, 0),
            saved=step,
        )
        self._progress.start()

    def step(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._drawn < 0.2:
            return
        self._drawn = now
        steps = self._per_epoch * self._epochs
        self._progress.update(
            self._task,
            completed=step,
            epoch=(step - 1) // self._per_epoch + 1,
            loss=loss,
            speed=(step - self._first) * self._batch / (now - self._began),
            left=time_left(step - self._first, steps - step, now - self._began),
            saved=self._saved,
        )
        self._progress.refresh()

    def epoch(self, row: Row) -> None:
        self.say(_epoch_line(row, self._epochs))

    def saved(self, step: int) -> None:
        self._saved = step

    def trials(self, ended: int, total: int, best: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        if self._progress is None:
            text = TextColumn("best {task.fields[best]}")
            columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), Elapsed(), text)
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task("", total=total, best="-")
            self._progress.start()
        self._progress.update(self._task, completed=ended, best=best or "-")

    def end(self) -> None:
        for drawn in (self._progress, self._status):
            if drawn:
                drawn.stop()
        self._progress = self._status = None


class _DownloadBar:
    """The progress bar that pooch expects, drawn by rich."""

    def __init__(self, console: Any, title: str):
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn(title), BarColumn(), DownloadColumn(), console=console, transient=True
        )
        self._task = self._progress.add_task("", total=None)
        self._progress.start()
        self.total: float | None = None

    def update(self, size: int) -> None:
        self._progress.update(self._task, total=self.total, advance=size)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: lines and colours on a terminal, tabs-free aligned columns elsewhere."""
    head, *rows = ([harmless(cell) for cell in row] for row in (head, *rows))
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Column, Table
        from rich.text import Text

        drawn = Table(*(Column(Text(name)) for name in head), box=box.SIMPLE_HEAD)
        for row in rows:
            drawn.add_row(*map(Text, row))
        Console().print(drawn)
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
