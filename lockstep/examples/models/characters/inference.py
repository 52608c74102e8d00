"""Reading a text, and going on with it."""

import torch

from lockstep.model import Predictor as BasePredictor
from lockstep.model import Text

from .config import Config
from .model import LENGTH, Model
from .preprocess import Preprocess


class Predictor(BasePredictor):
    """The beginning of a text to the characters that are most likely to follow."""

    parts = (Config, Preprocess, Model)
    takes = Text(LENGTH)
    gives = "text"

    def answer(self, inputs: torch.Tensor) -> list[str]:
        """The characters that follow each text, one after the other the most likely one."""
        tokens, ends = inputs.clone(), (inputs != 0).sum(1)
        for _ in range(self.preprocess.config.more):
            scores = self.model(tokens)
            last = scores[torch.arange(len(tokens)), (ends - 1).clamp(0, LENGTH - 1)]
            full = ends >= LENGTH
            tokens = torch.where(full[:, None], tokens.roll(-1, 1), tokens)
            ends = torch.where(full, LENGTH - 1, ends)
            tokens[torch.arange(len(tokens)), ends] = last[:, 1:].argmax(1) + 1
            ends = ends + 1
        more = self.preprocess.config.more
        rows = zip(tokens.tolist(), ends.tolist(), strict=True)
        return [bytes(row[max(end - more, 0) : end]).decode(errors="replace") for row, end in rows]
