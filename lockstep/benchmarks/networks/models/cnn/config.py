"""Settings of the convolutional network."""

from dataclasses import dataclass

from lockstep.config.experiment import setting


@dataclass(frozen=True)
class Config:
    """The one thing about it that may be set."""

    dropout: float = setting(0.25, "share of features left out in training", low=0, high=0.95)
