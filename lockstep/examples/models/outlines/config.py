"""Settings of the outlines model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A small network of convolutions that keep the size of a picture."""

    width: int = setting(16, "channels of each convolution", low=1)
