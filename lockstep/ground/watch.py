"""The observer of a training."""

from typing import Any, TypedDict


class Row(TypedDict):
    """A line of ``metrics.jsonl``: an epoch, the step that ended it, and its metrics by name.

    One that is not finite is None.
    """

    epoch: int
    step: int
    better: bool
    rate: float
    train: dict[str, float]
    validation: dict[str, float | None]


class Watch:
    """Is notified of what happens and decides nothing; this one prints nothing."""

    def say(self, line: str) -> None:
        """A line for people."""

    def doing(self, line: str) -> None:
        """Show what is in progress; the next such line replaces it."""

    def bar(self, title: str) -> Any:
        """Return a progress bar for a download, as pooch expects it, or None."""

    def begin(self, run: str, step: int, steps: int, steps_per_epoch: int, batch: int) -> None:
        """Training starts, at ``step`` of ``steps``."""

    def step(self, step: int, loss: float) -> None:
        """A step is done."""

    def epoch(self, row: Row) -> None:
        """An epoch is done; its line of metrics.jsonl, with the metric that it goes by first."""

    def saved(self, step: int) -> None:
        """A checkpoint is being written."""

    def trials(self, ended: int, total: int, best: str) -> None:
        """Show how many trials of a study have ended; ``best`` describes the best, if any."""

    def end(self) -> None:
        """End the display of progress, whatever the outcome."""
