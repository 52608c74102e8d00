"""Bodies of requests: what is read of them, and what is refused before it costs anything."""

import json
from typing import Any

import numpy as np
import pytest

from lockstep.examples.models import apparel, digits, tags
from lockstep.ground.errors import DataError
from lockstep.serving.limits import Limits, Refused
from lockstep.serving.reading import CSV, JSON, Reading

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
        "body: expected at most 3 inputs; ask several times."
    )
    assert refused(tags, CSV, HEAD + many + long).startswith("found a row of over 262,144 char")


def test_a_table_has_nobody_wait_however_short_it_is() -> None:
    found = [reading(tags).is_quick(kind, HEAD) for kind in (CSV, "text/plain")]
    assert found == [False, True]
    assert reading(digits).is_quick(CSV, HEAD) is False


def test_json_of_too_many_values_is_refused_before_it_is_read() -> None:
    limits = Limits(values=1000)
    told = (
        "body: found 1,002 commas, colons and brackets, expected at most 1,000; ask several times."
    )
    # None of them is JSON, which nobody who parsed them would fail to tell.
    for body in (b"[" * 1002, b"[{" * 501, b"[0" + b",0" * 1001, b'{"a":1,' * 334, b"[]," * 501):
        for model in (digits, tags):
            assert refused(model, JSON, body, limits) == told
            assert "not readable as JSON" in refused(model, JSON, body[:500], limits)


def test_as_many_pictures_and_texts_as_a_request_may_have_are_no_more_values_than_it_may() -> None:
    limits = Limits()
    grey = np.random.default_rng(0).integers(0, 256, (limits.inputs, 28, 28))
    found = reading(apparel, limits).rows(JSON, json.dumps(grey.tolist()).encode())
    assert np.array_equal(found, grey)
    texts = ["one, two: three" * 20] * limits.inputs
    assert len(reading(tags, limits).rows(JSON, json.dumps(texts).encode())) == limits.inputs


def test_one_picture_in_colours_can_be_asked_however_large_the_models_pictures_are() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (28, 28, 3))
    body = json.dumps([colours.tolist()]).encode()
    assert len(reading(apparel, Limits(values=100)).rows(JSON, body)) == 1
    assert refused(digits, JSON, body, Limits(values=100)).endswith(
        ", expected at most 320; ask several times."
    )


def test_no_more_inputs_are_read_than_there_is_time_for_but_always_one() -> None:
    many, one = (json.dumps(["one", "two"][:count]).encode() for count in (2, 1))
    told = (
        "body: found more than is read in 0 s, expected fewer or smaller inputs; ask several times."
    )
    assert refused(tags, JSON, many, Limits(reading=0)) == told
    assert len(reading(tags, Limits(reading=0)).rows(JSON, one)) == 1
