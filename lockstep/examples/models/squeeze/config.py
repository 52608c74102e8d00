"""Settings of the squeeze model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """An encoder and a decoder."""

    hidden: int = setting(128, "units of each hidden layer", low=1)
    code: int = setting(8, "numbers that a picture is squeezed into", low=1)
    share: float = setting(0.1, "weight of the code's distance from the normal distribution", low=0)
