"""The model in the form of ONNX, for other runtimes than torch; checked before it is handed out."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.answers.output import Output, as_it_is, is_own
from lockstep.answers.predictor import Predictor
from lockstep.ground.errors import BundleError

TOLERANCE = 1e-4  # of a probability, or of the largest number, between torch and ONNX Runtime
_OPSET = 18


class Session(torch.nn.Module):
    """A model in the form of ONNX, computed by ONNX Runtime on one thread; a module for torch."""

    def __init__(self, content: bytes):
        super().__init__()
        try:
            import onnxruntime  # type: ignore[import-untyped]
        except ImportError as error:
            raise _missing(error) from error
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        here = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(content, settings, providers=here)
        self.version = str(onnxruntime.__version__)

    def forward(self, inputs: Any) -> torch.Tensor:
        """Return scores (rows, ...) of inputs as ``Preprocess`` gives them."""
        arrays = {name: tensor.numpy() for name, tensor in _named(inputs).items()}
        return torch.from_numpy(self._session.run(None, arrays)[0])


class _Whole(torch.nn.Module):
    """A model with an output of its own, as one module."""

    def __init__(self, model: torch.nn.Module, output: Output):
        super().__init__()
        self.model, self.output = model, output

    def forward(self, inputs: Any) -> torch.Tensor:
        return self.output(self.model, inputs)


def compute(predictor: Predictor, session: Session) -> None:
    """Let ONNX Runtime compute a Predictor's outputs."""
    predictor.model = session
    if is_own(predictor.output):
        predictor.output = as_it_is


def exported(predictor: Predictor, rows: Sequence[NDArray[Any]]) -> tuple[bytes, dict[str, Any]]:
    """Export a Predictor's model; return ``model.onnx``, and facts about it for the manifest.

    Its input ``inputs`` is what Preprocess gives (several by name, if it gives a dict), its output
    ``scores`` the model's, or what an ``output`` of its own makes of it, for any number of rows.
    ``rows`` are raw examples whose outputs are compared between torch and ONNX Runtime. Raises
    BundleError if a label differs, or a number by more than TOLERANCE, for a model that cannot be
    exported, or if the packages that export are not installed.
    """
    if predictor.gives == "text":
        raise BundleError(
            "model.onnx: found a model that generates texts step by step, expected one that "
            "computes them at once; omit --onnx."
        )
    inputs, own = predictor.preprocess(np.stack(rows)), is_own(predictor.output)
    model = _Whole(predictor.model, predictor.output) if own else predictor.model
    content = _written(model.eval(), inputs)
    session, after = Session(content), as_it_is if own else predictor.output
    with torch.inference_mode():
        expected = predictor.output(predictor.model, inputs).numpy()
        found = after(session, inputs).numpy()
    size = max(1.0, float(np.abs(expected).max()))
    apart = float(np.abs(found - expected).max()) / size
    labels = predictor.gives == "label" and (found.argmax(1) != expected.argmax(1)).any()
    if not apart <= TOLERANCE or labels:
        what, same = (
            ("probabilities", " and the same labels")
            if predictor.gives == "label"
            else ("outputs", "")
        )
        raise BundleError(
            f"model.onnx: found {what} {apart:.2g} apart from torch's on {len(rows)} "
            f"examples, expected {TOLERANCE:g} at most{same}; omit --onnx."
        )
    shapes = {name: ["n", *tensor.shape[1:]] for name, tensor in _named(inputs).items()}
    # Not how far they were apart: that depends on the CPU, and the bundle's bytes would.
    facts = {"opset": _OPSET, "input": shapes.get("inputs", shapes), "tolerance": TOLERANCE}
    return content, facts | {"examples": len(rows)}


def _named(inputs: Any) -> dict[str, torch.Tensor]:
    return dict(inputs) if isinstance(inputs, Mapping) else {"inputs": inputs}


def _written(model: torch.nn.Module, inputs: Any) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise _missing(error) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch's exporter itself uses
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # "torchvision is not installed"
        rows = {0: torch.export.Dim("n")}
        shapes = dict.fromkeys(inputs, rows) if isinstance(inputs, Mapping) else rows
        # A dict in the last place would be arguments by name.
        words = (inputs, {}) if isinstance(inputs, Mapping) else (inputs,)
        try:
            program = torch.onnx.export(
                model,
                words,
                dynamo=True,
                opset_version=_OPSET,
                input_names=list(_named(inputs)),
                output_names=["scores"],
                dynamic_shapes=(shapes,),
                verbose=False,
            )
        except Exception as error:  # of many kinds, with a text of many lines
            reason = " ".join(str(error.__cause__ or error).split())
            raise BundleError(
                f"model.onnx: this model cannot be exported ({reason:.200}); omit --onnx."
            ) from error
    assert program
    written = program.model_proto
    for part in (written, written.graph, *written.graph.node, *written.graph.value_info):
        del part.metadata_props[:]  # paths of this machine
        part.doc_string = ""
    onnx.checker.check_model(written)
    content: bytes = written.SerializeToString(deterministic=True)
    return content


def _missing(error: ImportError) -> BundleError:
    return BundleError(
        f"model.onnx: {error.name} is not installed; ./workbench installs the locked packages."
    )
