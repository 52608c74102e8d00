"""Bodies of requests: what is read of them, and what is refused before it costs anything."""

from typing import Any

import pytest

from project.errors import DataError
from project.models import digits, tags
from project.serving.limits import Limits, Refused
from project.serving.reading import CSV, Reading

FEW = Limits(inputs=3)
HEAD = b"title,description\n"


def reading(model: Any, limits: Limits = FEW) -> Reading:
    """What reads bodies for a model that knows of no weights."""
    return Reading(object.__new__(model.Predictor), limits)


def refused(model: Any, kind: str, body: bytes, limits: Limits = FEW) -> str:
    """What is told of a body."""
    with pytest.raises((DataError, Refused)) as error:
        reading(model, limits).rows(kind, body)
    return str(error.value)


def test_of_a_table_no_more_rows_are_read_than_a_request_may_have() -> None:
    many, long = b"a,b\n" * 3, b"x," * 200_000
    assert len(reading(tags).rows(CSV, HEAD + many)) == 3
    assert refused(tags, CSV, HEAD + many + b"a,b\n" + long) == (
        "body: wanted at most 3 inputs; ask several times."
    )
    assert refused(tags, CSV, HEAD + many + long).startswith("found a row of over 262,144 char")


def test_a_table_has_nobody_wait_however_short_it_is() -> None:
    found = [reading(tags).is_quick(kind, HEAD) for kind in (CSV, "text/plain")]
    assert found == [False, True]
    assert reading(digits).is_quick(CSV, HEAD) is False
