"""What SageMaker's PyTorch containers call, ``code/inference.py`` of a bundle.

The answers are those of ``Predictor.predict``. Beside it lies the code that trained the model.
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
    from lockstep.answers.inputs import Answer
    from lockstep.answers.predictor import Predictor

_PICTURES = ("image/png", "image/jpeg", "application/x-image")
_JSON, _CSV, _PLAIN = "application/json", "text/csv", "text/plain"


@dataclass(frozen=True)
class Given:
    """What was sent: inputs, or the text of a CSV file, which each model reads in its own way."""

    inputs: list[Any] = field(default_factory=list)
    table: str | None = None


def model_fn(model_dir: str) -> "Predictor":
    """The Predictor of the bundle that was unpacked there.

    Raises ModelError for a file that was altered, or if the golden answers differ where they must
    not; where they are not compared, the log says why.
    """
    folder = Path(model_dir)
    facts = json.loads((folder / "manifest.json").read_bytes())
    # Before torch is loaded; if the server has done that, its answers may have other last bits.
    settled = profiles.prefer(facts["profile"])
    from lockstep.answers import golden
    from lockstep.ground import environment
    from lockstep.ground.home import of
    from lockstep.training.determinism import enforce

    if settled:
        enforce(facts["profile"], "cpu")
    predictor = of(facts["package"]).module(facts["model"]).Predictor.load(folder)
    receipt = json.loads((folder / "receipt.json").read_bytes())
    found = golden.compared(predictor, receipt, environment.cpu()["model"], settled)
    if found != "equal":
        logging.getLogger(__name__).warning("golden answers %s", found)
    return predictor


def input_fn(body: bytes | bytearray | str | None, content_type: str | None) -> Given:
    """A picture, a JSON list of pictures (as arrays) or of texts, a text, or rows of a CSV file.

    Raises what gives status 415 for another content type, 400 for what is not as it says.
    """
    content = body.encode() if isinstance(body, str) else bytes(body or b"")
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in _PICTURES:
        return Given([content])
    try:
        if kind == _PLAIN:
            return Given([content.decode()])
        if kind == _CSV:
            return Given(table=content.decode("utf-8-sig"))
        if kind == _JSON and isinstance(inputs := json.loads(content), list):
            return Given(inputs)
    except (ValueError, RecursionError) as error:
        raise _refused(400, f"body: not readable as {kind} ({error}).") from None
    if kind == _JSON:
        raise _refused(400, "body: found other JSON, wanted a list of pictures or of texts.")
    wanted = ", ".join((*_PICTURES, _JSON, _CSV, _PLAIN))
    raise _refused(415, f"content type: found {content_type!r:.80}, wanted one of {wanted}.")


def predict_fn(given: Given, predictor: "Predictor") -> "list[Answer]":
    """An answer for each input, in their order.

    Raises what gives status 400 for inputs that the model does not take.
    """
    texts = predictor.takes.described()["kind"] == "text"
    try:
        inputs = given.inputs if given.table is None else list(predictor.table(given.table))
        # A text would be the path of a file to who looks at pictures, and one among numbers would
        # be copied to each of their places.
        if not texts and any(map(_has_text, inputs)):
            raise DataError("input: found a text, wanted pictures.")
        rows = [predictor.read(one) for one in inputs]
    except DataError as error:
        raise _refused(400, str(error)) from None
    return predictor.answers(rows)


def output_fn(answers: "list[Answer]", accept: str) -> tuple[str, str]:
    """The answers as JSON, and that content type.

    Raises what gives status 406 if it is not accepted.
    """
    kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
    if not kinds & {_JSON, "application/*", "*/*", ""}:
        raise _refused(406, f"accept: found {accept!r:.80}, wanted {_JSON}.")
    return json.dumps(answers), _JSON


def _has_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and any(map(_has_text, value)))


def _refused(status: int, told: str) -> Exception:
    """The caller's mistake; any other error is the server's to SageMaker's toolkit, status 500."""
    try:
        from sagemaker_inference.errors import (  # type: ignore[import-not-found]
            GenericInferenceToolkitError,
        )
    except ImportError:  # in another server
        return ValueError(told)
    mistake: Exception = GenericInferenceToolkitError(status, told, HTTPStatus(status).phrase)
    return mistake
