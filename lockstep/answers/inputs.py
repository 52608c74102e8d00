"""What a model takes, said so that an interface can be made of it, and what it gives."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

from lockstep.program import Kind


@dataclass(frozen=True)
class Picture:
    """One picture, as file or as array; another size than (height, width) is scaled to it.

    As a raw example it is uint8 (height, width), with ``colour`` (height, width, 3).
    """

    height: int
    width: int
    colour: bool = False

    def described(self) -> dict[str, Any]:
        """Return the same as JSON."""
        return {"kind": "picture"} | asdict(self)


@dataclass(frozen=True)
class Text:
    """One text; what lies beyond ``longest`` bytes of UTF-8 is not looked at.

    As a raw example it is uint8 (longest,), padded with zeros.
    """

    longest: int

    def described(self) -> dict[str, Any]:
        """Return the same as JSON."""
        return {"kind": "text"} | asdict(self)


@dataclass(frozen=True)
class Numbers:
    """A list of numbers, or a row of a table by the names of its columns.

    Without ``names`` they are the columns of the data set that the model was trained on. As a raw
    example it is float32 (names,).
    """

    names: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """Return the same as JSON."""
        return {"kind": "numbers", "names": list(self.names)}


@dataclass(frozen=True)
class Tensor:
    """Nested lists, an array, or a file in NumPy's format, of one shape and type."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    def described(self) -> dict[str, Any]:
        """Return the same as JSON."""
        return {"kind": "tensor", "shape": list(self.shape), "dtype": self.dtype}


Takes = Picture | Text | Numbers | Tensor

# What a model gives: one label, or those of several that apply; numbers by name; a class for each
# pixel; a text; or a vector, (k,) or of more dimensions.
Gives = Literal["label", "labels", "values", "mask", "text", "vector"]
GIVES: dict[Kind, Gives] = {
    "class": "label",
    "labels": "labels",
    "numbers": "values",
    "mask": "mask",
    "none": "vector",
}


class Answer(TypedDict):
    """A label, its probability, and the probabilities of all labels: what most models give.

    Those that give something else have other keys, as ``answers.giving`` makes them.
    """

    label: str
    confidence: float
    confidences: dict[str, float]
