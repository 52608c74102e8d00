"""Settings of the scenes model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A small convolutional network on 16 x 16 pixels."""

    width: int = setting(
        24, "channels of the first convolution, the second has twice as many", low=1
    )
