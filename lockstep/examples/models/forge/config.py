"""Settings of the forge model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A generator of pictures and a critic of them."""

    noise: int = setting(16, "numbers that a picture is made from", low=1)
    hidden: int = setting(64, "units of each hidden layer", low=1)
    penalty: float = setting(1.0, "weight of the penalty on the critic's slope", low=0)
    critics: int = setting(5, "steps of the critic for each of the generator", low=1)
