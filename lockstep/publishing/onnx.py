"""The model in the form of ONNX, for other runtimes than torch; checked before it is handed out."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep.answers.predictor import Predictor
from lockstep.ground.errors import BundleError

TOLERANCE = 1e-4  # of a probability, between torch and ONNX Runtime
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

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores (rows, classes) of inputs as ``Preprocess`` gives them."""
        return torch.from_numpy(self._session.run(["scores"], {"inputs": inputs.numpy()})[0])


def exported(predictor: Predictor, rows: Sequence[NDArray[Any]]) -> tuple[bytes, dict[str, Any]]:
    """Export a Predictor's model; return ``model.onnx``, and facts about it for the manifest.

    Its input ``inputs`` is what Preprocess gives, its output ``scores`` the model's, for any number
    of rows. ``rows`` are raw examples whose probabilities are compared between torch and ONNX
    Runtime. Raises BundleError if a label differs or a probability by more than TOLERANCE, or if
    the packages that export are not installed.
    """
    inputs = predictor.preprocess(np.stack(rows))
    content = _written(predictor.model, inputs)
    with torch.inference_mode():
        expected = torch.softmax(predictor.model(inputs), dim=1).numpy()
    found = torch.softmax(Session(content)(inputs), dim=1).numpy()
    apart = float(np.abs(found - expected).max())
    if not apart <= TOLERANCE or (found.argmax(1) != expected.argmax(1)).any():
        raise BundleError(
            f"model.onnx: found probabilities {apart:.2g} apart from torch's on {len(rows)} "
            f"examples, expected {TOLERANCE:g} at most and the same labels; omit --onnx."
        )
    # Not how far they were apart: that depends on the CPU, and the bundle's bytes would.
    facts = {"opset": _OPSET, "input": ["n", *inputs.shape[1:]], "tolerance": TOLERANCE}
    return content, facts | {"examples": len(rows)}


def _written(model: torch.nn.Module, inputs: torch.Tensor) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise _missing(error) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch's exporter itself uses
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # "torchvision is not installed"
        program = torch.onnx.export(
            model,
            (inputs,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["inputs"],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            verbose=False,
        )
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
