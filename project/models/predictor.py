"""What every model's Predictor does alike: load a finished run, answer with labels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from project.errors import ModelError
from project.files import digest_of

_AT_ONCE = 256


class Predictor:
    """Answers with a label and how sure the model is of it.

    A model says in ``parts`` which Config, Preprocess and Model belong together, and in ``read``
    how one input becomes a raw example. Only safetensors and JSON are read, so nothing that is
    loaded can run code.
    """

    parts: ClassVar[tuple[Any, Any, Any]]

    def __init__(self, model: torch.nn.Module, preprocess: Any):
        self.model, self.preprocess = model.eval(), preprocess
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4:  # as in training: how weights lie decides the kernel and the bits
                tensor.data = tensor.data.to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model of a finished run (or a copy of its files), verified against its receipt.

        Raises ModelError if a file is missing or is not the one that the receipt names.
        """
        folder = Path(folder)
        config_class, preprocess_class, model_class = cls.parts
        try:
            results = json.loads(_content(folder / "receipt.json"))["results"]
            digests = results["preprocess_sha256"], results["weights_sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder / 'receipt.json'}: no receipt; it was altered.") from error
        preprocess = _verified(folder / "preprocess.json", digests[0])
        weights = _verified(folder / "weights.safetensors", digests[1])
        stored = json.loads(preprocess)
        if (wanted := cls.__module__.split(".")[-2]) != stored["model"]:
            raise ModelError(f"{folder}: holds a model {stored['model']!r}, wanted {wanted!r}.")
        model = model_class(config_class(**stored["config"]), len(stored["labels"]))
        model.load_state_dict(safetensors.torch.load(weights))
        return cls(model, preprocess_class.from_state(stored))

    def read(self, source: Any) -> NDArray[Any]:
        """One input, as people have it, as a raw example; each model knows its own."""
        raise NotImplementedError

    def given(self, word: str) -> list[tuple[str, Any]]:
        """The inputs that a word of the command line stands for, each with its name: one, the word
        itself, unless a model knows of files with several."""
        return [(word, word)]

    def predict(self, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """``{"label", "confidence", "confidences"}`` for each input, in their order.

        The confidence is the probability of the label, ``confidences`` those of all labels.
        """
        raw = [self.read(source) for source in inputs]
        answers: list[dict[str, Any]] = []
        for start in range(0, len(raw), _AT_ONCE):
            with torch.inference_mode():
                batch = self.preprocess(np.stack(raw[start : start + _AT_ONCE]))
                answers += map(self._answer, torch.softmax(self.model(batch), dim=1).tolist())
        return answers

    def _answer(self, probabilities: list[float]) -> dict[str, Any]:
        confidences = dict(zip(self.preprocess.labels, probabilities, strict=True))
        label = max(confidences, key=confidences.__getitem__)
        return {"label": label, "confidence": confidences[label], "confidences": confidences}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: {error.strerror}; wanted a finished run. Run its train command to the end."
        ) from error


def _verified(path: Path, wanted: str) -> bytes:
    content = _content(path)
    if (found := digest_of(content)) != wanted:
        raise ModelError(
            f"{path}: found sha256 {found[:12]}, the receipt says {wanted[:12]}; the file was "
            "altered. Train again, or put the right file back."
        )
    return content
