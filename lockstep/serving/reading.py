"""A request's body as inputs of the model: a file, JSON with one or many, or a form."""

import json
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from lockstep.answers.inputs import Picture
from lockstep.answers.predictor import Predictor
from lockstep.ground import pictures
from lockstep.ground.errors import DataError
from lockstep.serving.limits import Limits, Refused

JSON, FORM, CSV = "application/json", "multipart/form-data", "text/csv"
_WANTED = {
    "picture": "a picture or a list of pictures, each an array of shape (height, width), "
    "(1, height, width) or (height, width, 3)",
    "text": "a text or a list of texts",
}
_SHORT = 1 << 13  # bytes of JSON or of a text that are read within microseconds


class Reading:
    """Reads what a model's Predictor takes."""

    def __init__(self, predictor: Predictor, limits: Limits):
        takes = predictor.takes
        self._picture, self._limits = isinstance(takes, Picture), limits
        self._read, self._table = predictor.read, predictor.table
        self._wanted = _WANTED["picture" if self._picture else "text"]
        # One picture in colours can always be asked, however large those of the model are.
        one = 5 * takes.height * takes.width if isinstance(takes, Picture) else 0
        self._values = max(limits.values, one)

    def is_quick(self, kind: str, body: bytes) -> bool:
        """Whether nobody else need wait long while this is read."""
        if self._picture and not kind.startswith((JSON, FORM, CSV)):
            return pictures.is_small(body)
        return len(body) <= _SHORT and not kind.startswith((FORM, CSV))

    def rows(self, kind: str, body: bytes) -> list[NDArray[Any]]:
        """The raw examples of a body of a content type.

        Raises DataError for what the model cannot take, Refused for too many.
        """
        most = self._limits.inputs
        inputs: Iterable[Any]
        if kind.startswith(JSON):
            inputs = self._many(self._parsed(body))
        elif kind.startswith(FORM):
            inputs = [self._content(part) for part in _parts(kind, body, most)]
        elif kind.startswith(CSV):
            inputs = self._table(_text(body).removeprefix("\ufeff"))
        else:
            inputs = [self._content(body)]
        few = list(islice(inputs, most + 1))  # of a table no more is read
        if len(few) > most:
            raise _too_many(most)
        rows, end = [], time.monotonic() + self._limits.reading
        for one in few:
            rows.append(self._read(one))
            if time.monotonic() > end and len(rows) < len(few):
                raise Refused(
                    413,
                    f"body: found more than is read in {self._limits.reading:g} s, expected fewer"
                    " or smaller inputs; ask several times.",
                )
        return rows

    def _content(self, content: bytes) -> bytes | str:
        return content if self._picture else _text(content)

    def _parsed(self, body: bytes) -> Any:
        """What JSON holds, if that is not so much that all others would have to wait for it."""
        # Each value stands after one of these, but the first.
        found = len(body) - len(body.translate(None, b",:[{"))
        if found > self._values:
            raise Refused(
                413,
                f"body: found {found:,} commas, colons and brackets, expected at most "
                f"{self._values:,}; ask several times.",
            )
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise DataError(f"body: not readable as JSON ({error}).") from error

    def _many(self, found: Any) -> list[Any]:
        """The inputs in JSON: no text for a picture, for that would be a path of this machine."""
        if not self._picture:
            texts = [found] if isinstance(found, str) else found
            if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
                return texts
        elif isinstance(found, list) and all(isinstance(item, list) for item in found):
            one = bool(found) and all(_is_number(value) for item in found for value in item)
            many = [found] if one and all(found) else found
            if all(_has_numbers(item, 3) for item in many):
                return many
        raise DataError(f"body: found other JSON, expected {self._wanted}.")


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"text: not readable as UTF-8 ({error.reason}).") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_numbers(value: Any, depth: int) -> bool:
    """Whether all in nested lists are numbers; NumPy would copy a long text to each place."""
    if isinstance(value, list):
        return depth > 0 and all(_has_numbers(item, depth - 1) for item in value)
    return _is_number(value)


def _too_many(most: int) -> Refused:
    return Refused(413, f"body: expected at most {most} inputs; ask several times.")


def _parts(kind: str, body: bytes, most: int) -> list[bytes]:
    """The contents of a form's fields, in their order."""
    _, _, boundary = kind.partition("boundary=")
    boundary = boundary.partition(";")[0].strip().strip('"')
    edge = b"\r\n--" + boundary.encode(errors="replace")
    body = b"\r\n" + body
    if boundary and body.count(edge) > most + 1:  # the last one ends the form
        raise _too_many(most)
    first, *parts = body.split(edge, most + 1)
    if not boundary or first or not parts or not parts[-1].startswith(b"--"):
        raise DataError(f"body: found no {FORM} with its boundary, expected a file in one.")
    contents = []
    for part in parts[:-1]:
        _, blank, content = part.partition(b"\r\n\r\n")
        if not blank:
            raise DataError("body: found a field without a content, expected a file in each.")
        contents.append(content)
    if not contents:
        raise DataError("body: found a form without a field, expected a file in one.")
    return contents
