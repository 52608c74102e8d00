"""What every model's Predictor does alike: load a finished run, answer with labels."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from lockstep.answers import golden
from lockstep.answers.golden import Golden
from lockstep.answers.inputs import Answer, Takes
from lockstep.bundles.opening import is_bundle, opened, readable, refuse_unsigned
from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.errors import DataError, ModelError

if TYPE_CHECKING:
    from lockstep.model import Preprocess

# One alone is computed by other kernels than several together, and has other bits. So what an
# answer is, is what a block of BLOCK rows gives, padded if there are fewer.
BLOCK = 32
_SMALLER = (2, 4, 8, 16)


class Predictor:
    """Answers with a label and how sure the model is of it.

    A model says in ``parts`` which Config, Preprocess and Model belong together, in ``takes`` what
    its inputs are, and in ``read`` how one of them becomes a raw example. An answer does not
    depend on what is asked with it. Only safetensors and JSON are read, so nothing that is loaded
    can run code.
    """

    parts: ClassVar[
        tuple[Callable[..., Any], type["Preprocess"], Callable[[Any, int], torch.nn.Module]]
    ]
    takes: ClassVar[Takes]
    golden: Golden | None = None  # as ``golden.made`` writes it, if it is known
    sizes: tuple[int, ...] = (BLOCK,)  # of the blocks that are computed

    def __init__(self, model: torch.nn.Module, preprocess: "Preprocess"):
        self.model, self.preprocess = model.eval(), preprocess
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
            predictor.golden = json.loads(_verified(folder / "golden.json", answers))
            predictor.narrow(golden.examples(predictor.golden))
        return predictor

    @classmethod
    def of(cls, preprocess: bytes, weights: bytes) -> Self:
        """The model whose two files have this content."""
        config_class, preprocess_class, model_class = cls.parts
        stored = json.loads(preprocess)
        model = model_class(config_class(**stored["config"]), len(stored["labels"]))
        model.load_state_dict(safetensors.torch.load(weights))
        return cls(model, preprocess_class.from_state(stored))

    def read(self, source: Any) -> NDArray[Any]:
        """One input, as people have it, as a raw example; each model knows its own."""
        raise NotImplementedError

    def named_inputs(self, word: str) -> list[tuple[str, Any]]:
        """The inputs that a word of the command line stands for, each with its name: one, the word
        itself, unless a model knows of files with several."""
        return [(word, word)]

    def table(self, text: str) -> Iterable[Any]:  # noqa: ARG002
        """The inputs in the rows of a CSV file's text, for a model that knows of such files.

        Yields one by one, so a caller can stop early. Raises DataError if there are none in
        it, as for any other model.
        """
        raise DataError(f"text/csv: found a table, expected {self.takes.described()['kind']}s.")

    def predict(self, inputs: Sequence[Any]) -> list[Answer]:
        """``{"label", "confidence", "confidences"}`` for each input, in their order.

        The confidence is the probability of the label, ``confidences`` those of all labels.
        """
        return self.answers([self.read(source) for source in inputs])

    def answers(self, rows: Sequence[NDArray[Any]]) -> list[Answer]:
        """The same for raw examples, as ``read`` gives them."""
        found: list[Answer] = []
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            size = next(size for size in self.sizes if size >= len(block))
            found += map(self._answer, self._probabilities(block, size).tolist())
        return found

    def narrow(self, rows: Sequence[NDArray[Any]]) -> None:
        """Compute few inputs in smaller blocks, of those sizes that have the bits of whole ones.

        That is tried here, on some raw examples. Raises ModelError if what an answer is depends on
        the place of its input in a block, or on its neighbours.
        """
        many = [rows[number % len(rows)] for number in range(BLOCK)]
        whole = self._probabilities(many, BLOCK)
        if not torch.equal(whole, self._probabilities(many[::-1], BLOCK).flip(0)):
            raise ModelError(
                f"{type(self).__module__}: found answers that depend on what stands beside an "
                "input, expected a model whose rows know nothing of each other."
            )
        self.sizes = (*(size for size in _SMALLER if self._same(many, size, whole)), BLOCK)

    def _same(self, rows: Sequence[NDArray[Any]], size: int, whole: torch.Tensor) -> bool:
        """Whether rows in blocks of a size, once each in the first eight places, agree."""
        starts = range(0, max(8, size), size)
        found = [self._probabilities(rows[start : start + size], size) for start in starts]
        return torch.equal(torch.cat(found), whole[: max(8, size)])

    def _probabilities(self, rows: Sequence[NDArray[Any]], size: int) -> torch.Tensor:
        """Probabilities (rows, classes), computed in one block of a size."""
        padded = [*rows, *[rows[-1]] * (size - len(rows))]
        with torch.inference_mode():
            scores = self.model(self.preprocess(np.stack(padded)))
            return torch.softmax(scores, dim=1)[: len(rows)]

    def _answer(self, probabilities: list[float]) -> Answer:
        confidences = dict(zip(self.preprocess.labels, probabilities, strict=True))
        label = max(confidences, key=confidences.__getitem__)
        return {"label": label, "confidence": confidences[label], "confidences": confidences}


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
