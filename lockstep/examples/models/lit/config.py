"""Settings of the lit model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """What the module is made with."""

    hidden: int = setting(64, "units of the hidden layer", low=1)
    lr: float = setting(0.003, "peak learning rate", low=0)
