"""Settings of the prices model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A small network on the columns of a table."""

    columns: int = setting(10, "columns of the table", low=1)
    hidden: int = setting(32, "units of the hidden layer", low=1)
    dropout: float = setting(0.1, "share of hidden units left out in training", low=0, high=0.9)
    scale: float = setting(100.0, "about the deviation of the target, in which errors count")
