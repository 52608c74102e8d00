"""What SageMaker's PyTorch containers call, ``code/inference.py`` of a bundle.

The answers are those of ``Predictor.predict``. Beside it lies the code that trained the model.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from project.training import profiles

_PICTURES = ("image/png", "image/jpeg", "application/x-image")


@dataclass(frozen=True)
class Served:
    """A model, and whether it reads texts; else it looks at pictures."""

    predictor: Any
    texts: bool


@dataclass(frozen=True)
class Given:
    """What was sent: inputs, or the text of a CSV file, which each model reads in its own way."""

    inputs: list[Any]
    csv: bytes = b""


def model_fn(model_dir: str) -> Served:
    """The model of the bundle that was unpacked there, every file verified."""
    facts = json.loads((Path(model_dir) / "manifest.json").read_bytes())
    # Before torch is loaded; if the server has done that, its answers may have other last bits.
    settled = profiles.prefer(facts["profile"])
    from project import models
    from project.training.determinism import enforce

    if settled:
        enforce(facts["profile"], "cpu")
    predictor = models.module(facts["model"]).Predictor.load(model_dir)
    return Served(predictor, facts["takes"] == "text")


def input_fn(body: bytes | bytearray | str, content_type: str) -> Given:
    """A picture, a JSON list of pictures (as arrays) or of texts, a text, or rows of a CSV file.

    Raises ValueError for anything else.
    """
    content = body.encode() if isinstance(body, str) else bytes(body)
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _PICTURES:
        return Given([content])
    if kind == "text/plain":
        return Given([content.decode()])
    if kind == "text/csv":
        return Given([], content)
    if kind != "application/json":
        wanted = ", ".join((*_PICTURES, "application/json", "text/csv", "text/plain"))
        raise ValueError(f"content type: found {content_type!r}, wanted one of {wanted}.")
    inputs = json.loads(content)
    if not isinstance(inputs, list):
        raise ValueError("body: found other JSON, wanted a list of pictures or of texts.")
    return Given(inputs)


def predict_fn(given: Given, served: Served) -> list[dict[str, Any]]:
    """An answer for each input, in their order. Raises ValueError for inputs of another kind."""
    inputs = given.inputs
    if given.csv:
        if not served.texts:
            raise ValueError("text/csv: found a table, wanted a picture or JSON.")
        with tempfile.NamedTemporaryFile(suffix=".csv") as file:
            file.write(given.csv)
            file.flush()
            inputs = [source for _, source in served.predictor.given(file.name)]
    # A text would be the path of a file to who looks at pictures.
    wanted: Any = str if served.texts else (bytes, list)
    if strange := [one for one in inputs if not isinstance(one, wanted)]:
        found, kind = type(strange[0]).__name__, "texts" if served.texts else "pictures"
        raise ValueError(f"input: found {found}, wanted {kind}.")
    answers: list[dict[str, Any]] = served.predictor.predict(inputs)
    return answers


def output_fn(answers: list[dict[str, Any]], accept: str) -> tuple[str, str]:
    """The answers as JSON, and that content type. Raises ValueError if it is not accepted."""
    kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
    if not kinds & {"application/json", "application/*", "*/*", ""}:
        raise ValueError(f"accept: found {accept!r}, wanted application/json.")
    return json.dumps(answers), "application/json"
