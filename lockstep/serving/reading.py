"""A request's body as inputs of the model: a file, JSON with one or many, or a form."""

import math
import time
from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from numpy.typing import NDArray

from lockstep.answers import reading
from lockstep.answers.inputs import Picture, Tensor, Text
from lockstep.answers.predictor import Predictor
from lockstep.ground import pictures
from lockstep.ground.errors import DataError
from lockstep.serving.limits import Limits, Refused

JSON, FORM, CSV = "application/json", "multipart/form-data", "text/csv"
NPY = "application/x-npy"
_SHORT = 1 << 13  # bytes of JSON or of a text that are read within microseconds


class Reading:
    """Reads what a model's Predictor takes."""

    def __init__(self, predictor: Predictor, limits: Limits):
        takes = self._takes = predictor.takes
        self._picture, self._limits = isinstance(takes, Picture), limits
        self._read, self._table = predictor.example, predictor.table
        # One picture in colours can always be asked, however large those of the model are; and
        # one tensor.
        one = 5 * takes.height * takes.width if isinstance(takes, Picture) else 0
        one = 2 * math.prod(takes.shape) + 2 if isinstance(takes, Tensor) else one
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
            inputs = reading.inputs_of_json(self._takes, self._parsed(body))
        elif kind.startswith(FORM):
            inputs = chain.from_iterable(map(self._content, _parts(kind, body, most)))
        elif kind.startswith(CSV):
            inputs = self._table(reading.decoded(body).removeprefix("\ufeff"))
        else:
            inputs = self._content(body)
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

    def _content(self, content: bytes) -> Iterable[Any]:
        """The inputs in a file: one picture or text, one or many rows of numbers or tensors."""
        if self._picture:
            return [content]
        if isinstance(self._takes, Text):
            return [reading.decoded(content)]
        if not content.startswith(reading.NPY):
            self._refuse_many_values(content)
        return reading.inputs_of_bytes(self._takes, content)

    def _parsed(self, body: bytes) -> Any:
        """What JSON holds, if that is not so much that all others would have to wait for it."""
        self._refuse_many_values(body)
        return reading.parsed(body)

    def _refuse_many_values(self, body: bytes) -> None:
        # Each value stands after one of these, but the first.
        found = len(body) - len(body.translate(None, b",:[{"))
        if found > self._values:
            raise Refused(
                413,
                f"body: found {found:,} commas, colons and brackets, expected at most "
                f"{self._values:,}; ask several times.",
            )


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
