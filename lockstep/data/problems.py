"""Problems of a data set's files: collected, then reported all at once."""

from collections import Counter
from pathlib import Path

from lockstep.ground.errors import DataError

_SHOWN = 20


class Problems:
    """Collects problems, each with its place, until ``refuse`` reports all of them."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, place: str, text: str) -> None:
        """``place`` is the file, with the row if it is about one; ``text`` found and expected."""
        self._found.append((place, text))

    def take(self, others: "Problems") -> None:
        """Add the problems that another one collected."""
        self._found += others._found

    def refuse(self, name: str) -> None:
        """Raise DataError if there are any: a line for each of the first, and a count of the rest.

        Problems of a whole file come first: they explain many of a row.
        """
        if not self._found:
            return
        found = list(dict.fromkeys(self._found))
        found.sort(key=lambda problem: ", " in problem[0])
        lines = [f"{place}: {text}" for place, text in found[:_SHOWN]]
        if rest := found[_SHOWN:]:
            files = Counter(place.partition(", ")[0] for place, _ in rest)
            lines.append("and " + ", ".join(f"{n:,} more in {file}" for file, n in files.items()))
        count = "1 problem" if len(found) == 1 else f"{len(found):,} problems"
        head = f"data {name}: {count}, and nothing was added; fix the files and try again."
        raise DataError("\n".join([head, *lines]))


def strange(path: Path, name: str) -> str:
    """Say what is wrong with a file whose beginning shows that it is another than its name says."""
    with path.open("rb") as file:
        head = file.read(1 << 12)
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git LFS pointer, expected the file itself; run `git lfs pull`"
    if not head:
        return "is empty, expected data"
    if not name.lower().endswith((".csv", ".tsv", ".txt")):
        return ""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or 0 in head[:2]:
        return "is in UTF-16, expected UTF-8; save it in that encoding"
    for magic, kind in ((b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "a zip archive or Excel file")):
        if head.startswith(magic):
            return f"is {kind}, expected text in UTF-8; unpack it or save it as CSV"
    return ""
