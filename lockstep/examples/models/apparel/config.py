"""Settings of the apparel model."""

from dataclasses import dataclass

from lockstep.model import setting


@dataclass(frozen=True)
class Config:
    """A residual network on 28 x 28 pixels; each further stage has half the resolution."""

    widths: list[int] = setting([16, 32, 64], "channels of the stem and of each stage", low=1)
    blocks: list[int] = setting([0, 1], "residual blocks of each stage", low=0)
    dropout: float = setting(0.0, "share of features left out in training", low=0, high=0.95)
    smoothing: float = setting(0.05, "label smoothing", low=0, high=0.9)
    flip: bool = setting(True, "mirror half of the training pictures")
    shift: int = setting(0, "pixels by which training pictures move at most", low=0, high=8)
    erase: int = setting(
        0, "side of a square hidden in training pictures, 0 = none", low=0, high=28
    )

    mirror: bool = setting(
        False, "answer with the mean of the scores of a picture and its mirror image"
    )

    def __post_init__(self) -> None:
        if len(self.blocks) != len(self.widths) - 1:
            raise ValueError(
                f"model.blocks: found {len(self.blocks)} stages, expected {len(self.widths) - 1}, "
                "one for each of model.widths after the first"
            )
