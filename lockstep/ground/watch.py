"""Who looks on while a run is made."""

from typing import Any, TypedDict


class Row(TypedDict):
    """A line of ``metrics.jsonl``: an epoch, the step that ended it, and its metrics by name."""

    epoch: int
    step: int
    better: bool
    rate: float
    train: dict[str, float]
    validation: dict[str, float]


class Watch:
    """Told what happens, deciding nothing. This one keeps silent."""

    def say(self, line: str) -> None:
        """A line for people."""

    def doing(self, line: str) -> None:
        """What takes its time just now; the next such line takes its place."""

    def bar(self, title: str) -> Any:
        """A progress bar for a download, as pooch wants it, or None."""

    def begin(self, run: str, step: int, steps: int, steps_per_epoch: int, batch: int) -> None:
        """Training starts, at ``step`` of ``steps``."""

    def step(self, step: int, loss: float) -> None:
        """A step is done."""

    def epoch(self, row: Row) -> None:
        """An epoch is done; its line of metrics.jsonl."""

    def saved(self, step: int) -> None:
        """A checkpoint is being written."""

    def trials(self, ended: int, total: int, best: str) -> None:
        """So many trials of a study have ended; ``best`` is empty or tells of the best."""

    def end(self) -> None:
        """What took its time is over, however it ended."""
