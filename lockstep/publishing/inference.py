"""The functions that SageMaker's PyTorch containers call; ``code/inference.py`` of a bundle.

The answers are those of ``Predictor.predict``. The code that trained the model lies beside it.
"""

import json
import logging
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.ground import profiles
from lockstep.ground.errors import DataError

if TYPE_CHECKING:
    from lockstep.answers.predictor import Predictor

_PICTURES = ("image/png", "image/jpeg", "application/x-image")
_JSON, _CSV, _PLAIN, _NPY = "application/json", "text/csv", "text/plain", "application/x-npy"


@dataclass(frozen=True)
class Request:
    """The body of a request: inputs, or what each model reads itself.

    That is the text of a CSV file, what JSON held, or an array in NumPy's format.
    """

    inputs: list[Any] = field(default_factory=list)
    table: str | None = None
    json: Any = None
    array: bytes | None = None


def model_fn(model_dir: str) -> "Predictor":
    """Load the Predictor of the bundle that was unpacked to a folder.

    Raises ModelError for a file that was altered, or if the golden answers differ where they must
    not; where they are not compared, the log says why.
    """
    folder = Path(model_dir)
    facts = json.loads((folder / "manifest.json").read_bytes())
    # Before torch is loaded; if the server has done that, its answers may have other last bits.
    entered = profiles.prefer(facts["profile"])
    from lockstep.answers import golden
    from lockstep.ground import environment
    from lockstep.ground.home import of
    from lockstep.training.determinism import enforce

    if entered:
        enforce(facts["profile"], "cpu")
    predictor = of(facts["package"]).module(facts["model"]).Predictor.load(folder)
    receipt = json.loads((folder / "receipt.json").read_bytes())
    comparison = golden.compared(predictor, receipt, environment.cpu()["model"], entered)
    if comparison != "equal":
        logging.getLogger(__name__).warning("golden answers %s", comparison)
    return predictor


def input_fn(body: bytes | bytearray | str | None, content_type: str | None) -> Request:
    """Read a picture, a text, rows of a CSV file, an array in NumPy's format, or JSON.

    JSON holds a list of inputs: pictures as arrays, texts, rows of numbers, tensors.

    Raises an error of status 415 for another content type, of 400 for content of another type.
    """
    content = body.encode() if isinstance(body, str) else bytes(body or b"")
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in _PICTURES:
        return Request([content])
    try:
        if kind == _PLAIN:
            return Request([content.decode()])
        if kind == _CSV:
            return Request(table=content.decode("utf-8-sig"))
        if kind == _NPY:
            return Request(array=content)
        if kind == _JSON and isinstance(inputs := json.loads(content), list | dict):
            return Request(json=inputs)
    except (ValueError, RecursionError) as error:
        raise _refused(400, f"body: not readable as {kind} ({error}).") from None
    if kind == _JSON:
        raise _refused(400, "body: found other JSON, expected a list of inputs.")
    known = ", ".join((*_PICTURES, _JSON, _CSV, _PLAIN, _NPY))
    raise _refused(415, f"content type: found {content_type!r:.80}, expected one of {known}.")


def predict_fn(request: Request, predictor: "Predictor") -> list[Any]:
    """Answer each input, in their order.

    Raises an error of status 400 for inputs that the model does not take.
    """
    # The Predictor is that of the engine that trained the run; an earlier one has only ``read``.
    read = getattr(predictor, "example", predictor.read)
    try:
        rows = [read(one) for one in _inputs(request, predictor)]
    except DataError as error:
        raise _refused(400, str(error)) from None
    return predictor.answers(rows)


def _inputs(request: Request, predictor: "Predictor") -> list[Any]:
    kind = predictor.takes.described()["kind"]
    if request.table is not None:
        return list(predictor.table(request.table))
    if kind in ("numbers", "tensor"):
        return _numbers(request, predictor)
    inputs = request.inputs if request.json is None else request.json
    if request.array is not None:
        raise DataError(f"array: found NumPy's format, expected {kind}s.")
    if isinstance(inputs, dict):
        raise DataError(f"body: found other JSON, expected a list of {kind}s.")
    # A model of pictures would open a text as the path of a file, and NumPy would copy one
    # among numbers to each of their places.
    if kind == "picture" and any(map(_has_text, inputs)):
        raise DataError("input: found a text, expected pictures.")
    return inputs


def _numbers(request: Request, predictor: "Predictor") -> list[Any]:
    from lockstep.answers import reading

    takes = predictor.takes
    if request.array is not None:
        return list(reading.inputs_of_npy(takes, request.array))
    if request.json is None:
        raise DataError(f"input: found a picture or a text, expected {reading.expected(takes)}.")
    return reading.inputs_of_json(takes, request.json)


def output_fn(answers: list[Any], accept: str) -> tuple[str, str]:
    """Return the answers as JSON, and that content type.

    Raises an error of status 406 if the caller does not accept it.
    """
    kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
    if not kinds & {_JSON, "application/*", "*/*", ""}:
        raise _refused(406, f"accept: found {accept!r:.80}, expected {_JSON}.")
    return json.dumps(answers), _JSON


def _has_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and any(map(_has_text, value)))


def _refused(status: int, message: str) -> Exception:
    """Return the caller's mistake as an exception; SageMaker's toolkit answers others with 500."""
    try:
        from sagemaker_inference.errors import (  # type: ignore[import-not-found]
            GenericInferenceToolkitError,
        )
    except ImportError:  # in another server
        return ValueError(message)
    mistake: Exception = GenericInferenceToolkitError(status, message, HTTPStatus(status).phrase)
    return mistake
