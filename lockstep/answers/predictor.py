"""What every model's Predictor does alike: load a finished run, and answer."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.answers import giving, golden, reading
from lockstep.answers.golden import Golden
from lockstep.answers.inputs import GIVES, Gives, Numbers, Picture, Takes, Text
from lockstep.answers.output import output_of
from lockstep.bundles.opening import is_bundle, opened, readable, refuse_unsigned
from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.errors import DataError, ModelError
from lockstep.ground.tensors import tensors
from lockstep.program import Kind

if TYPE_CHECKING:
    from lockstep.model import Preprocess

# One alone is computed by other kernels than several together, and has other bits. So what an
# answer is, is what a block of BLOCK rows gives, padded if there are fewer.
BLOCK = 32
_SMALLER = (2, 4, 8, 16)
Outputs = (
    torch.Tensor | list[str]
)  # of a model for the rows of a block: numbers (rows, ...), or texts


class Predictor:
    """Answers with what its model gives: a label with confidences, values, a mask, a text, ...

    A model says in ``parts`` which Config, Preprocess and Model belong together, and in ``takes``
    what its inputs are; ``read`` may be its own. What it gives follows from the kind of its data
    set, unless ``gives`` says otherwise. An answer does not depend on what is asked with it. Only
    safetensors and JSON are read, so nothing that is loaded can run code.
    """

    # The second has what Preprocess has, whether it inherits from it or not.
    parts: ClassVar[tuple[Callable[..., Any], type[Any], Callable[[Any, int], torch.nn.Module]]]
    takes: Takes
    gives: Gives | None = None  # by the kind of the data set
    threshold: float = 0.5  # of a label's probability, where several may apply
    golden: Golden | None = None  # as ``golden.make`` writes it, if it is known
    sizes: tuple[int, ...] = (BLOCK,)  # of the blocks that are computed

    def __init__(
        self, model: torch.nn.Module, preprocess: "Preprocess", kind: Kind = "class"
    ) -> None:
        self.model, self.preprocess = model.eval(), preprocess
        self.gives = self.gives or GIVES[kind]
        self.output = output_of(_package(type(self)), kind)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4:  # as in training: how weights lie decides the kernel and the bits
                tensor.data = tensor.data.to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model of a finished run (or a copy of its files), verified against its receipt.

        Or that of a bundle, packed or unpacked, verified as ``bundles.opening`` says. Raises
        ModelError if a file is missing or is not the one that the receipt names.
        """
        path = Path(folder)
        if is_bundle(path):
            with opened(path) as verified:
                return cls._loaded(verified)
        refuse_unsigned(path)
        return cls._loaded(path)

    @classmethod
    def _loaded(cls, folder: Path) -> Self:
        try:
            receipt = json.loads(_content(folder / "receipt.json"))
            seal, results = receipt.pop("digest"), receipt["results"]
            content = digest_of(canonical_json(receipt))
            digests = results["preprocess_sha256"], results["weights_sha256"]
            answers = results.get("golden_sha256")  # runs of the first edition have none
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{folder / 'receipt.json'}: no receipt; it was altered.") from error
        if seal != content:
            raise ModelError(
                f"{folder / 'receipt.json'}: found digest {str(seal)[:12]}, expected that of its "
                f"content, {content[:12]}; it was altered. Put the file back, or train again."
            )
        with readable(folder):
            return cls._made(folder, digests, answers)

    @classmethod
    def _made(cls, folder: Path, digests: tuple[str, str], answers: str | None) -> Self:
        preprocess = _verified(folder / "preprocess.json", digests[0])
        weights = _verified(folder / "weights.safetensors", digests[1])
        stored, expected = json.loads(preprocess)["model"], _model_of(cls.__module__)
        if expected and stored != expected:
            raise ModelError(f"{folder}: found the model {stored!r}, expected {expected!r}.")
        predictor = cls.of(preprocess, weights)
        if answers:
            predictor.golden = golden.parsed(_verified(folder / "golden.json", answers))
            predictor.narrow(golden.examples(predictor.golden))
        return predictor

    @classmethod
    def of(cls, preprocess: bytes, weights: bytes) -> Self:
        """The model whose two files have this content."""
        config_class, preprocess_class, model_class = cls.parts
        stored = json.loads(preprocess)
        model = model_class(config_class(**stored["config"]), len(stored["labels"]))
        model.load_state_dict(tensors(weights))
        predictor = cls(model, preprocess_class.from_state(stored), stored.get("kind", "class"))
        if isinstance(cls.takes, Numbers) and not cls.takes.names:
            predictor.takes = replace(cls.takes, names=tuple(stored.get("columns", ())))
        return predictor

    def read(self, source: Any) -> NDArray[Any]:
        """Return one input, as people have it, as a raw example.

        A model that knows its own inputs better may do this in its own way, and raise DataError
        for what it cannot take.
        """
        return reading.example(self.takes, source)

    def example(self, source: Any) -> NDArray[Any]:
        """Return one input as a raw example, as ``read`` does.

        Raises DataError, in one line, whatever ``read`` raises.
        """
        try:
            return self.read(source)
        except DataError:
            raise
        except Exception as error:
            kind, reason = self.takes.described()["kind"], " ".join(str(error).split())
            raise DataError(
                f"{kind}: not readable ({type(error).__name__}: {reason:.200}), expected "
                f"{reading.expected(self.takes)}."
            ) from error

    def as_input(self, row: NDArray[Any]) -> Any:
        """Return a raw example as people have it, so that ``read`` takes it."""
        if isinstance(self.takes, Picture | Text):
            return self.preprocess.show(row)
        return row

    def answer(self, inputs: Any) -> list[str]:  # noqa: ARG002
        """Return a text for each of the inputs (n, ...), as Preprocess makes them.

        A model that gives texts generates them here.
        """
        raise ModelError(
            f"{type(self).__module__}: found gives = 'text' without a method answer(inputs), "
            "expected one that returns a text for each input."
        )

    def named_inputs(self, word: str) -> list[tuple[str, Any]]:
        """Return the inputs that a word of the command line stands for, each with its name."""
        return reading.inputs_of_word(self.takes, word)

    def table(self, text: str) -> Iterable[Any]:
        """Return the inputs in the rows of a CSV file's text.

        One by one, so that a caller can stop early. Raises DataError if there are none in it, as
        for a model that takes no numbers.
        """
        return reading.table(self.takes, text)

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """Return the answer to each input, in their order, as ``answers.giving`` describes.

        Most models give ``{"label", "confidence", "confidences"}``: the confidence is the
        probability of the label, ``confidences`` those of all labels.
        """
        return self.answers([self.example(source) for source in inputs])

    def answers(self, rows: Sequence[NDArray[Any]]) -> list[Any]:
        """Return the same for raw examples, as ``read`` gives them."""
        return [
            answer
            for start in range(0, len(rows), BLOCK)
            for answer in self.answered(self.outputs(rows[start : start + BLOCK]))
        ]

    def outputs(self, rows: Sequence[NDArray[Any]]) -> Outputs:
        """Return what the model computes for up to BLOCK raw examples."""
        return self._computed(rows, next(size for size in self.sizes if size >= len(rows)))

    def answered(self, outputs: Outputs) -> list[Any]:
        """Return the answers that outputs stand for."""
        if isinstance(outputs, list):
            return [{"text": text} for text in outputs]
        assert self.gives
        return giving.answers(self.gives, outputs, self.preprocess.labels, self.threshold)

    def narrow(self, rows: Sequence[NDArray[Any]]) -> None:
        """Compute few inputs in smaller blocks, of those sizes that have the bits of whole ones.

        That is tried here, on some raw examples. Raises ModelError if what an answer is depends on
        the place of its input in a block, or on its neighbours.
        """
        many = [rows[number % len(rows)] for number in range(BLOCK)]
        whole = golden.bits(self._computed(many, BLOCK))
        if whole != golden.bits(self._computed(many[::-1], BLOCK))[::-1]:
            raise ModelError(
                f"{type(self).__module__}: found answers that depend on what stands beside an "
                "input, expected a model whose rows know nothing of each other."
            )
        self.sizes = (*(size for size in _SMALLER if self._same(many, size, whole)), BLOCK)

    def _same(self, rows: Sequence[NDArray[Any]], size: int, whole: Sequence[bytes]) -> bool:
        """Whether rows in blocks of a size, once each in the first eight places, agree."""
        starts = range(0, max(8, size), size)
        blocks = [self._computed(rows[start : start + size], size) for start in starts]
        return [row for block in blocks for row in golden.bits(block)] == whole[: max(8, size)]

    def _computed(self, rows: Sequence[NDArray[Any]], size: int) -> Outputs:
        """What the model gives for rows, computed in one block of a size."""
        padded = [*rows, *[rows[-1]] * (size - len(rows))]
        with torch.inference_mode():
            inputs = self.preprocess(np.stack(padded))
            if self.gives == "text":
                return _texts(self.answer(inputs), size)[: len(rows)]
            outputs = self.output(self.model, inputs)
        if not isinstance(outputs, torch.Tensor) or len(outputs) != size:
            kind = getattr(outputs, "shape", type(outputs).__name__)
            raise ModelError(
                f"{type(self).__module__}: found outputs {kind}, expected a tensor ({size}, ...); "
                "define `output` in the model's package."
            )
        return outputs[: len(rows)]


def _texts(texts: Any, size: int) -> list[str]:
    if not isinstance(texts, list) or [type(text) for text in texts] != [str] * size:
        raise ModelError(f"answer: found {texts!r:.60}, expected a list of {size} texts.")
    return texts


def _package(predictor: type[Predictor]) -> Any:
    """Return the package of the model that a Predictor belongs to, or of its parts; else None."""
    for one in (predictor, *predictor.parts):
        before, models, name = getattr(one, "__module__", "").partition(".models.")
        package = sys.modules.get(f"{before}{models}{name.partition('.')[0]}")
        if models and package is not None:
            return package
    return None


def _model_of(module: str) -> str:
    """Return the model whose package has a module; "" for one that models share."""
    return module.partition(".models.")[2].partition(".")[0]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: {error.strerror}, expected a finished run; run its train command to the end."
        ) from error


def _verified(path: Path, sha256: str) -> bytes:
    content = _content(path)
    if (found := digest_of(content)) != sha256:
        raise ModelError(
            f"{path}: found sha256 {found[:12]}, the receipt says {sha256[:12]}; the file was "
            "altered. Train again, or put the right file back."
        )
    return content
