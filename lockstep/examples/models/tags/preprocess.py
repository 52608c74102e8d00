"""Texts as bytes of UTF-8 to weights of their words and of the pieces of these."""

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from .config import Config

_KEPT = 4096  # texts whose terms are remembered: each epoch asks for them again
_LENGTH = 10.0  # of each text's vectors, so that learning rates have their usual size
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # as in OpenCV and in TensorFlow
_WORD = re.compile(r"\w\w+")
_PIECES = (3, 4, 5)

Terms = dict[str, list[str]]
Row = tuple[NDArray[np.int64], NDArray[np.float32]]  # columns of a text's terms, their weights


class Preprocess:
    """Weighs the words of a text, and their pieces, by how rare they are (TF-IDF).

    Pieces of three to five letters know misspelt, inflected and composed words. The vocabulary is
    fitted on the training split and saved with the weights. What is said of TF-IDF is that of
    Salton and Buckley, 1988, with the logarithm of the count.
    """

    def __init__(self, config: Config, labels: list[str], rarity: dict[str, float]):
        self.config, self.labels, self.rarity = config, labels, rarity
        self._column = {term: column for column, term in enumerate(rarity)}
        self._row = functools.lru_cache(_KEPT)(self._weighed)

    @classmethod
    def fit(cls, config: Config, inputs: NDArray[Any], labels: list[str]) -> Self:
        """Look at the training split, (rows, width) uint8; what one text alone has is left out."""
        texts: Counter[str] = Counter()
        for row in inputs:
            texts.update({term for kind in terms(text_of(row)).values() for term in kind})
        common = [(-count, term) for term, count in texts.items() if count > 1]
        chosen = sorted(term for _, term in sorted(common)[: config.vocabulary])
        rows = 1 + len(inputs)
        return cls(config, labels, {t: _rounded(1 + math.log(rows / texts[t])) for t in chosen})

    def __call__(self, raw: NDArray[Any]) -> torch.Tensor:
        """Texts (n, width) uint8 to inputs (n, vocabulary) float32."""
        inputs = np.zeros((len(raw), self.config.vocabulary), np.float32)
        for values, row in zip(inputs, raw, strict=True):
            columns, weights = self._row(text_of(row))
            values[columns] = weights
        return torch.from_numpy(inputs)

    def _weighed(self, text: str) -> Row:
        found: dict[int, float] = {}
        for kind in terms(text).values():
            counts = Counter(term for term in kind if term in self._column)
            weights = {t: _damped(count) * self.rarity[t] for t, count in counts.items()}
            # Exact, whatever the order, and so the same on every CPU.
            length = math.sqrt(math.fsum(weight * weight for weight in weights.values()))
            found |= {self._column[t]: _LENGTH * w / length for t, w in weights.items()}
        columns = np.fromiter(found, np.int64, len(found))
        return columns, np.fromiter(found.values(), np.float32, len(found))

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Texts with some of their terms left out at random, in training only."""
        if not self.config.forget:
            return inputs
        return inputs * (torch.rand(inputs.shape, generator=generator) >= self.config.forget)

    @staticmethod
    def show(example: NDArray[Any]) -> str:
        """A raw example as people see it."""
        return text_of(example)

    def state(self) -> dict[str, Any]:
        """What was fitted, as JSON."""
        return {"labels": self.labels, "rarity": self.rarity}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The same preprocessing again."""
        rarity = {term: state["rarity"][term] for term in sorted(state["rarity"])}
        return cls(Config(**state["config"]), state["labels"], rarity)


def text_of(row: NDArray[Any]) -> str:
    """The text that a row of bytes holds, up to its padding."""
    return bytes(row).rstrip(b"\0").decode(errors="replace")


def terms(text: str) -> Terms:
    """The words of a text, and their pieces, each as often as it occurs.

    Capitals don't count, but a word with a hump, as OpenCV, is also taken as its parts.
    """
    text = unicodedata.normalize("NFKC", text)
    parts = _HUMP.sub(" ", text)
    words = _WORD.findall(parts.lower())
    words += [word.lower() for word in _WORD.findall(text) if _HUMP.search(word)]
    return {"words": words, "pieces": [f"#{piece}" for piece in _pieces(words)]}


def _pieces(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        padded = f" {word} "
        for size in _PIECES:
            for start in range(max(1, len(padded) - size + 1)):
                yield padded[start : start + size]


@functools.cache
def _damped(count: int) -> float:
    return _rounded(1 + math.log(count))


def _rounded(value: float) -> float:
    """A logarithm without its last digits, in which mathematical libraries differ."""
    return float(f"{value:.9g}")
