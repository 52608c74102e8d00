"""``POST /predict`` as OpenAPI describes it, with examples that the model was tried on."""

from typing import Any

from lockstep.answers.inputs import Numbers, Picture, Takes, Tensor, Text
from lockstep.answers.predictor import Predictor
from lockstep.serving.reading import CSV, FORM, JSON, NPY

_REFUSED = {
    400: "what the model cannot take",
    401: "the token is missing or another",
    408: "the body did not come in time",
    413: "too large, or too many",
    503: "as much waits as may; ask again after Retry-After seconds",
}


def path(predictor: Predictor, example: Any, answers: list[Any]) -> dict[str, Any]:
    """Return the path's description; ``example`` is an input in JSON, ``answers`` those to it."""
    responses: dict[str, Any] = {
        str(status): {"description": text, "content": {JSON: {"schema": _DETAIL}}}
        for status, text in _REFUSED.items()
    }
    examples = {"one": {"value": answers}} if answers else {}
    schema = {"type": "array", "items": _answer(predictor)}
    content = {JSON: {"schema": schema} | ({"examples": examples} if examples else {})}
    responses["200"] = {"description": "an answer for each input", "content": content}
    return {
        "post": {
            "operationId": "predict",
            "summary": "Answer one input, or a list of them.",
            "requestBody": {"required": True, "content": _body(predictor.takes, example)},
            "responses": dict(sorted(responses.items())),
        }
    }


def _body(takes: Takes, example: Any) -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    file = {"schema": binary}
    # A field may have any name; tools that make a form of this show one of these.
    fields = {"properties": {"file": binary}, "additionalProperties": binary, "minProperties": 1}
    form: dict[str, Any] = {"schema": {"type": "object"} | fields}
    text = {"type": "string"}
    one, more = _input(takes)
    many: dict[str, Any] = {"anyOf": [one, {"type": "array", "items": one}]} | more
    shown = {"examples": {"one": {"value": [example]}}} if example is not None else {}
    whole = {JSON: {"schema": many} | shown}
    match takes:
        case Text():
            plain = {"schema": text} | ({"examples": {"one": {"value": example}}} if shown else {})
            return whole | {"text/plain": plain, CSV: {"schema": text}, FORM: form}
        case Picture():
            return {"image/png": file, "image/jpeg": file} | whole | {FORM: form}
        case Numbers():
            return whole | {CSV: {"schema": text}, NPY: file, FORM: form}
        case Tensor():
            return whole | {NPY: file, FORM: form}


def _input(takes: Takes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of one input in JSON, and what there is to say of it."""
    number: dict[str, Any] = {"type": "number"}
    match takes:
        case Text():
            return {"type": "string"}, {}
        case Picture():
            row = {"type": "array", "minItems": 1, "items": number | {"minimum": 0, "maximum": 255}}
            said = "whole numbers 0 to 255 or floats 0 to 1; one picture or several"
            rows = {"type": "array", "minItems": 1, "items": row}
            colours = rows | {"items": rows}
            return (colours if takes.colour else rows), {"description": said}
        case Numbers(names) if names:
            size = {"minItems": len(names), "maxItems": len(names)}
            properties = dict.fromkeys(names, number)
            by_name = {"type": "object", "required": list(names), "properties": properties}
            said = f"numbers in this order: {', '.join(names)}; or by name; one row or several"
            either = {"anyOf": [{"type": "array", "items": number} | size, by_name]}
            return either, {"description": said}
        case Numbers():
            return {"type": "array", "items": number}, {}
        case Tensor(shape, dtype):
            nested = number
            for size_of in reversed(shape):
                nested = {"type": "array", "minItems": size_of, "maxItems": size_of} | {
                    "items": nested
                }
            return nested, {"description": f"shape {list(shape)}, {dtype}; one or several"}


def _answer(predictor: Predictor) -> dict[str, Any]:
    """The schema of one answer."""
    share = {"type": "number", "minimum": 0, "maximum": 1}
    shares = {"type": "object", "additionalProperties": share}
    number = {"type": ["number", "null"]}
    names, text = list(predictor.preprocess.labels), {"type": "string"}
    fields: dict[str, Any]
    match predictor.gives:
        case "label":
            fields = {"label": text, "confidence": share, "confidences": shares}
        case "labels":
            chosen = {"type": "array", "items": text}
            confidences = {"type": "object", "additionalProperties": number}
            fields = {"labels": chosen, "confidences": confidences}
        case "values":
            fields = dict.fromkeys(names, number)
        case "mask":
            row = {"type": "array", "items": {"type": "integer", "minimum": 0}}
            fields = {"mask": {"type": "array", "items": row}, "shares": shares}
        case "text":
            fields = {"text": text}
        case _:
            fields = {"vector": {"type": "array"}}
    return {"type": "object", "required": list(fields), "properties": fields}


_DETAIL = {
    "type": "object",
    "required": ["detail"],
    "properties": {"detail": {"type": "string"}},
}
