"""Golden answers: what a model answered to a few examples when it was trained, kept with it."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from lockstep.answers.inputs import Answer
from lockstep.ground import home
from lockstep.ground.digests import readable_json
from lockstep.ground.errors import Diverged, ModelError

if TYPE_CHECKING:
    from lockstep.answers.predictor import Predictor
    from lockstep.ground import pictures

_EXAMPLES, _MANY = 8, 512


class Golden(TypedDict):
    """The content of ``golden.json``: raw examples of a type and shape in base64, their answers."""

    answers: list[Answer]
    inputs: list[str]
    shape: list[int]
    type: str


def made(model: str, preprocess: bytes, weights: bytes, rows: NDArray[Any]) -> bytes:
    """The content of ``golden.json``: the first raw examples of ``rows`` and their exact answers.

    The answers are those of a Predictor made from the very bytes that are stored. An example is
    passed over if its answer is not finite. Raises Diverged if those of many are not.
    """
    predictor = home.here().module(model).Predictor.of(preprocess, weights)
    chosen = [np.ascontiguousarray(row) for row in rows[:_EXAMPLES]]
    answers = predictor.answers(chosen)
    if not all(map(_is_finite, answers)):
        many = [np.ascontiguousarray(row) for row in rows[:_MANY]]
        pairs = list(zip(many, predictor.answers(many), strict=True))
        good = [(row, answer) for row, answer in pairs if _is_finite(answer)][:_EXAMPLES]
        if not good:
            raise Diverged(
                f"{model}: the answers to the first {len(many)} test examples are not numbers; "
                "lower training.lr or set training.clip, which makes it another run."
            )
        chosen, answers = [row for row, _ in good], [answer for _, answer in good]
    content: Golden = {
        "answers": answers,
        "inputs": [base64.b64encode(row.tobytes()).decode() for row in chosen],
        "shape": list(rows.shape[1:]),
        "type": rows.dtype.str,
    }
    return readable_json(content)


def _is_finite(answer: Answer) -> bool:
    return all(map(math.isfinite, answer["confidences"].values()))


def examples(content: Golden) -> list[NDArray[Any]]:
    """The raw examples that golden answers are of."""
    return [
        np.frombuffer(base64.b64decode(text), content["type"]).reshape(content["shape"])
        for text in content["inputs"]
    ]


def compared(predictor: "Predictor", receipt: Mapping[str, Any], cpu: str, settled: bool) -> str:
    """``"equal"`` if a Predictor has every bit of its golden answers, or why nobody knows.

    Nobody does where the run promises nothing: in a process that is not ``settled`` in the run's
    profile, or, if that is not portable, on another CPU. Raises ModelError if the answers differ
    where they must not.
    """
    if predictor.golden is None:
        return "unchecked: the run has no golden answers"
    if not settled:
        return "unchecked: this process is not under the run's profile"
    trained = receipt["environment"]["cpu"]["model"]
    if cpu != trained and not receipt["level"]["promise"].endswith("(portable)"):
        return f"unchecked: the run was trained on another kind of CPU ({trained})"
    found = predictor.answers(examples(predictor.golden))
    if told := difference(predictor.golden["answers"], found):
        raise ModelError(
            f"{receipt['run']}: answers otherwise than in training ({told}); this machine or its "
            "packages compute other bits. `invoke doctor` says what is not as locked."
        )
    return "equal"


def difference(expected: Sequence[Answer], found: Sequence[Answer]) -> str:
    """Describe where answers differ from golden ones; empty if all bits are the same."""
    for number, (old, new) in enumerate(zip(expected, found, strict=True), 1):
        for label, confidence in old["confidences"].items():
            if new["confidences"].get(label) != confidence:
                return (
                    f"example {number}, {label}: found {new['confidences'].get(label)}, "
                    f"expected {confidence}"
                )
        if new != old:
            return f"example {number}: found {new['label']}, expected {old['label']}"
    return ""


def as_lists(picture: "pictures.Picture") -> list[Any]:
    """A picture as people see it as the nested lists that JSON has."""
    lists: list[Any] = np.asarray(picture).tolist()
    return lists
