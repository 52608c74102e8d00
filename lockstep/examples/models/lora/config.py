"""Settings of the lora model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """The layers of a digits model, and what adapts them."""

    width: int = setting(8, "channels of the first convolution, as in the digits model", low=1)
    hidden: int = setting(32, "units of the hidden layer, as in the digits model", low=1)
    rank: int = setting(8, "rank of what is added to a layer", low=1)
