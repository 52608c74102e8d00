"""Settings of the characters model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A decoder of one layer."""

    width: int = setting(32, "numbers that stand for a character", low=2)
    heads: int = setting(2, "heads of attention, which share the width", low=1)
    more: int = setting(24, "characters that an answer adds to a text", low=1)
