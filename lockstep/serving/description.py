"""``POST /predict`` as OpenAPI describes it, with examples that the model was tried on."""

from typing import Any

from lockstep.answers.inputs import Answer, Takes, Text
from lockstep.serving.reading import CSV, FORM, JSON

_REFUSED = {
    400: "what the model cannot take",
    401: "the token is missing or another",
    408: "the body did not come in time",
    413: "too large, or too many",
    503: "as much waits as may; ask again after Retry-After seconds",
}


def path(takes: Takes, example: Any, answers: list[Answer]) -> dict[str, Any]:
    """The path's description; ``example`` is an input in JSON, ``answers`` those to it."""
    responses: dict[str, Any] = {
        str(status): {"description": text, "content": {JSON: {"schema": _DETAIL}}}
        for status, text in _REFUSED.items()
    }
    examples = {"one": {"value": answers}} if answers else {}
    content = {JSON: {"schema": _ANSWERS} | ({"examples": examples} if examples else {})}
    responses["200"] = {"description": "an answer for each input", "content": content}
    return {
        "post": {
            "operationId": "predict",
            "summary": "Label one input, or a list of them.",
            "requestBody": {"required": True, "content": _body(takes, example)},
            "responses": dict(sorted(responses.items())),
        }
    }


def _body(takes: Takes, example: Any) -> dict[str, Any]:
    shown = {"examples": {"one": {"value": [example]}}} if example is not None else {}
    binary = {"type": "string", "format": "binary"}
    # A field may have any name; tools that make a form of this show one of these.
    fields = {"properties": {"file": binary}, "additionalProperties": binary, "minProperties": 1}
    form: dict[str, Any] = {"schema": {"type": "object"} | fields}
    if isinstance(takes, Text):
        text = {"type": "string"}
        texts: dict[str, Any] = {"anyOf": [text, {"type": "array", "items": text}]}
        plain = {"schema": text} | ({"examples": {"one": {"value": example}}} if shown else {})
        table = {"schema": text}
        return {JSON: {"schema": texts} | shown, "text/plain": plain, CSV: table, FORM: form}
    value = {"type": "number", "minimum": 0, "maximum": 255}
    row = {"type": "array", "minItems": 1, "items": value}
    rows = {"type": "array", "minItems": 1, "items": row}
    arrays: dict[str, Any] = {
        "description": "whole numbers 0 to 255 or floats 0 to 1; one picture or several",
        "anyOf": [rows, {"type": "array", "items": rows}],
    }
    file = {"schema": binary}
    return {"image/png": file, "image/jpeg": file, JSON: {"schema": arrays} | shown, FORM: form}


_DETAIL = {
    "type": "object",
    "required": ["detail"],
    "properties": {"detail": {"type": "string"}},
}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_ANSWERS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["label", "confidence", "confidences"],
        "properties": {
            "label": {"type": "string"},
            "confidence": _SHARE,
            "confidences": {"type": "object", "additionalProperties": _SHARE},
        },
    },
}
