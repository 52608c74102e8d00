"""Settings of the digits model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A small convolutional network on 8 x 8 pixels."""

    width: int = setting(
        32, "channels of the first convolution, the second has twice as many", low=1
    )
    hidden: int = setting(64, "units of the hidden layer", low=1)
    dropout: float = setting(0.2, "share of hidden units left out in training", low=0, high=0.95)
    shift: int = setting(1, "pixels by which training pictures move at most", low=0, high=3)

    @property
    def channels(self) -> tuple[int, int]:
        """Channels after each convolution."""
        return self.width, 2 * self.width
