"""Settings of the tuned model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """The features of a digits model, and a classifier for each quarter of a picture."""

    width: int = setting(8, "channels of the first convolution, as in the digits model", low=1)
    hidden: int = setting(32, "units of the classifier", low=1)
    frozen: int = setting(100, "steps before the features are trained, too", low=0)
    rate: float = setting(0.1, "learning rate of the features, of that of the classifier", low=0)
