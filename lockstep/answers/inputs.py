"""What a model takes, said so that an interface can be made of it, and what it answers."""

from dataclasses import asdict, dataclass
from typing import Any, TypedDict


@dataclass(frozen=True)
class Picture:
    """One picture, as file or as array; another size than (height, width) is scaled to it."""

    height: int
    width: int

    def described(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"kind": "picture"} | asdict(self)


@dataclass(frozen=True)
class Text:
    """One text; what lies beyond ``longest`` bytes of UTF-8 is not looked at."""

    longest: int

    def described(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"kind": "text"} | asdict(self)


Takes = Picture | Text


class Answer(TypedDict):
    """A label, its probability, and the probabilities of all labels."""

    label: str
    confidence: float
    confidences: dict[str, float]
