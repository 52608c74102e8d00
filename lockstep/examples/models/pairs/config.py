"""Settings of the pairs model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A network that places pictures on a sphere."""

    hidden: int = setting(128, "units of the hidden layer", low=1)
    size: int = setting(32, "numbers that represent a picture", low=1)
    temperature: float = setting(0.2, "how sharply neighbours count", low=0.01)
    noise: float = setting(0.3, "deviation of the noise in a view", low=0)
