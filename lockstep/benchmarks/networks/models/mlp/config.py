"""Settings of the network of linear layers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """It has none."""
