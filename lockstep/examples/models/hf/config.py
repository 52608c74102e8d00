"""Settings of the hf model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A small encoder."""

    width: int = setting(32, "numbers that stand for a patch of 2 x 2 pixels", low=2)
    layers: int = setting(1, "layers of the encoder", low=1)
