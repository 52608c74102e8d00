"""Golden answers: what a model answered to a few examples when it was trained, kept with it."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.ground import home
from lockstep.ground.digests import digest_of, key_of, readable_json
from lockstep.ground.errors import Diverged, LockstepError, ModelError
from lockstep.ground.generators import reseed

if TYPE_CHECKING:
    from lockstep.answers.predictor import Outputs, Predictor
    from lockstep.ground import pictures

_EXAMPLES, _MANY = 8, 512


class Golden(TypedDict):
    """The content of ``golden.json``: raw examples of a type and shape in base64, their answers.

    A label's answer has every bit of the model's outputs. For all others there are digests of the
    outputs beside the answers, and for large ones, masks and vectors, instead of them.
    """

    answers: list[Any]
    inputs: list[str]
    shape: list[int]
    type: str
    outputs: NotRequired[list[str]]


def make(model: str, preprocess: bytes, weights: bytes, rows: NDArray[Any]) -> bytes:
    """The content of ``golden.json``: the first raw examples of ``rows`` and their exact answers.

    The answers are those of a Predictor made from the very bytes that are stored. An example is
    passed over if its answer is not finite. Raises Diverged if those of many are not.
    """
    predictor = home.here().module(model).Predictor.of(preprocess, weights)
    chosen = [np.ascontiguousarray(row) for row in rows[:_EXAMPLES]]
    if not all(_are_finite(predictor, chosen)):
        many = [np.ascontiguousarray(row) for row in rows[:_MANY]]
        good = zip(many, _are_finite(predictor, many), strict=True)
        chosen = [row for row, finite in good if finite][:_EXAMPLES]
        if not chosen:
            raise Diverged(
                f"{model}: the answers to the first {len(many)} test examples are not numbers; "
                "lower training.lr or set training.clip, which makes it another run."
            )
    outputs = predictor.outputs(chosen)
    large = predictor.gives in ("mask", "vector")
    content: Golden = {
        "answers": [] if large else predictor.answered(outputs),
        "inputs": [base64.b64encode(row.tobytes()).decode() for row in chosen],
        "shape": list(rows.shape[1:]),
        "type": rows.dtype.str,
    }
    if predictor.gives != "label":
        content["outputs"] = digests(outputs)
    return readable_json(content)


def rehearse(
    model: str,
    preprocess: bytes,
    weights: bytes,
    rows: NDArray[Any],
    fitted: Any,
    forget: Callable[[], None],
) -> None:
    """Try, before a training, that the model's Predictor can be made and answers two examples.

    Two are made, each under other seeds: what is stored must be all that decides their answers,
    and they preprocess as the ``fitted`` one of the training does. ``forget`` empties what the
    project's code keeps in this process, which another one does not have. Raises ModelError, in one
    line, for whatever it would meet at the end.
    """
    few = [np.ascontiguousarray(row) for row in rows[:2]]
    try:
        predictors, found, inputs = [], [], []
        for number in range(2):
            reseed(key_of(number, "predictor"))
            forget()
            predictor = home.here().module(model).Predictor.of(preprocess, weights)
            predictors.append(predictor)
            for one in (predictor.preprocess, fitted):
                reseed(key_of(0, "predictor"))
                inputs.append(_bits_of(one(np.stack(few))))
            outputs = predictor.outputs(few)
            predictor.answered(outputs)
            found.append(bits(outputs))
            reseed(key_of(1, "predictor"))
            if bits(predictor.outputs(few)) != found[-1]:
                raise ModelError(
                    f"{model}: the model draws random numbers when it answers; draw them only "
                    "while it is trained (F.dropout(x, p, self.training))."
                )
        if len({*map(tuple, inputs)}) > 1:
            raise ModelError(
                f"{model}: Preprocess.from_state makes other inputs of an example than the fitted "
                "one; return all that was fitted from state()."
            )
        if found[0] != found[1]:
            raise ModelError(_undecided(model, *(one.model for one in predictors)))
    except LockstepError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{model}: Predictor cannot answer an example of the test split "
            f"({type(error).__name__}: {reason:.200}); correct it, and train then."
        ) from error


def _bits_of(inputs: Any) -> list[bytes]:
    """The bits of a batch's inputs: a tensor, or tensors by name."""
    fields = inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]
    return [name.encode() + _bytes(torch.as_tensor(field).cpu()) for name, field in fields]


def _undecided(model: str, one: torch.nn.Module, other: torch.nn.Module) -> str:
    """Say that weights do not decide the answers, and which part is not among them, if it shows."""
    for (place, module), (_, twin) in zip(one.named_modules(), other.named_modules(), strict=True):
        start = f"{model}: {place}." if place else f"{model}: "
        for name, value in vars(module).items():
            values = list(value.values()) if isinstance(value, dict) else value
            if name.startswith("_"):
                continue
            if isinstance(values, list | tuple) and any(
                isinstance(item, torch.nn.Module) for item in values
            ):
                return (
                    f"{start}{name}: found layers in a {type(value).__name__}, which are neither "
                    "trained nor stored; expected nn.ModuleList or nn.ModuleDict."
                )
            if isinstance(value, torch.Tensor) and not torch.equal(value, getattr(twin, name)):
                return (
                    f"{start}{name}: found a tensor that Model.__init__ draws and that is not "
                    "stored; expected self.register_buffer, or nn.Parameter if it is trained."
                )
    return (
        f"{model}: two Predictors of the same weights answer differently; Model.__init__ draws "
        "something that is neither a parameter nor a stored buffer (self.register_buffer)."
    )


def _are_finite(predictor: "Predictor", rows: Sequence[NDArray[Any]]) -> list[bool]:
    """Whether all that the model computes for an example are numbers, for each of them."""
    finite: list[bool] = []
    for start in range(0, len(rows), _EXAMPLES):
        outputs = predictor.outputs(rows[start : start + _EXAMPLES])
        if isinstance(outputs, list):
            finite += [True] * len(outputs)
        else:
            finite += outputs.isfinite().flatten(1).all(1).tolist()
    return finite


def bits(outputs: "Outputs") -> list[bytes]:
    """The bits of a model's outputs, for each example."""
    if isinstance(outputs, list):
        return [text.encode(errors="surrogatepass") for text in outputs]
    return [_bytes(row) for row in outputs.cpu()]


def _bytes(row: torch.Tensor) -> bytes:
    return row.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def digests(outputs: "Outputs") -> list[str]:
    """The digest of a model's outputs, for each example."""
    return [digest_of(row) for row in bits(outputs)]


def parsed(content: bytes) -> Golden:
    """Return what a ``golden.json`` says. Raises ModelError for one with more than ``make`` writes.

    All that it holds is computed at each load, so that a large one would take minutes.
    """
    golden: Golden = json.loads(content)
    lists = {"inputs": golden["inputs"], "answers": golden["answers"]}
    lists["outputs"] = golden.get("outputs", [])
    for name, values in lists.items():
        if len(values) > _EXAMPLES:
            raise ModelError(
                f"golden.json: found {len(values):,} {name}, expected {_EXAMPLES} at most; it was "
                "altered. Restore a good copy."
            )
    return golden


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
    if told := difference(predictor.golden, predictor):
        raise ModelError(
            f"{receipt['run']}: answers otherwise than in training ({told}); this machine or its "
            "packages compute other bits. `invoke doctor` says what is not as locked."
        )
    return "equal"


def difference(expected: Golden, predictor: "Predictor") -> str:
    """Describe where a Predictor's answers differ from golden ones; empty if all bits are equal."""
    outputs = predictor.outputs(examples(expected))
    answers = predictor.answered(outputs)
    for number, (old, new) in enumerate(zip(expected["answers"], answers, strict=False), 1):
        if new != old:
            return f"example {number}{_first_difference(old, new)}"
    for number, (one, other) in enumerate(
        zip(expected.get("outputs", ()), digests(outputs), strict=False), 1
    ):
        if one != other:
            return f"example {number}: found outputs {other[:12]}, expected {one[:12]}"
    return ""


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name the first number, label or text in which an answer differs from a golden one."""
    flat_old, flat_new = (answer | answer.get("confidences", {}) for answer in (old, new))
    for name in (*old.get("confidences", ()), *old):
        if name != "confidences" and flat_new.get(name) != flat_old[name]:
            return f", {name}: found {flat_new.get(name)}, expected {flat_old[name]}"
    return ": found other names, expected those of training"


def as_lists(values: "pictures.Picture | NDArray[Any]") -> list[Any]:
    """Return a picture as people see it, or an array, as the nested lists that JSON has."""
    lists: list[Any] = np.asarray(values).tolist()
    return lists
