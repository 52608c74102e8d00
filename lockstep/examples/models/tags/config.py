"""Settings of the tags model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A small network on which words, and which pieces of words, a text has."""

    vocabulary: int = setting(16384, "words and pieces that are looked at, at most", low=1)
    hidden: int = setting(64, "units of the hidden layer", low=1)
    dropout: float = setting(0.5, "share of hidden units left out in training", low=0, high=0.95)
    forget: float = setting(0.0, "share of terms left out of training texts", low=0, high=0.95)
    class_weights: list[float] = setting(
        [], "how much an example of each class counts in the loss, [] = alike", low=0
    )
