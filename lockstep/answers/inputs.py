"""What a model takes, said so that an interface can be made of it: pictures or texts."""

from dataclasses import asdict, dataclass
from typing import Any


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
