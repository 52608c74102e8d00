"""Settings of the teacher model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A student and its teacher."""

    hidden: int = setting(64, "units of the hidden layer", low=1)
    labelled: int = setting(10, "one example of so many counts with its label", low=1)
    agreement: float = setting(3.0, "weight of agreeing with the teacher", low=0)
    decay: float = setting(0.95, "how slowly the teacher follows", low=0, high=1)
