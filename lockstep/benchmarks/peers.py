"""Servers of the same model: ``python -m lockstep.benchmarks.peers def|async RUN PORT``.

It runs in an environment of its own, as `litserver.py`; of Lockstep they have the model and its
weights alone.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from lockstep.examples.models.apparel import Config, Model, Preprocess


class Classifier:
    """The model as in a plain script."""

    def __init__(self, run: Path):
        stored = json.loads((run / "preprocess.json").read_bytes())
        self.preprocess = Preprocess.from_state(stored)
        self.model = Model(Config(**stored["config"]), len(stored["labels"])).eval()
        self.model.load_state_dict(safetensors.torch.load_file(run / "weights.safetensors"))

    def read(self, content: bytes) -> np.ndarray[Any, Any]:
        """A PNG as pixels."""
        picture = Image.open(io.BytesIO(content)).convert("L").resize((28, 28))
        return np.asarray(picture, np.uint8)

    def predict(self, pixels: list[np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
        """An answer for each picture."""
        with torch.inference_mode():
            shares = torch.softmax(self.model(self.preprocess(np.stack(pixels))), dim=1).tolist()
        named = [dict(zip(self.preprocess.labels, row, strict=True)) for row in shares]
        return [
            {"label": max(row, key=row.__getitem__), "confidence": max(row.values())}
            | {"confidences": row}
            for row in named
        ]


def fastapi(kind: str, run: Path, port: int) -> None:
    """The endpoint of FastAPI's own tutorial for files, ``def`` or ``async def``."""
    import uvicorn
    from fastapi import FastAPI, UploadFile

    classifier, app = Classifier(run), FastAPI()

    def predict(file: UploadFile) -> list[dict[str, Any]]:  # in a pool of threads
        return classifier.predict([classifier.read(file.file.read())])

    async def predict_at_once(file: UploadFile) -> list[dict[str, Any]]:
        return classifier.predict([classifier.read(await file.read())])

    app.post("/predict")(predict if kind == "def" else predict_at_once)

    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    fastapi(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
