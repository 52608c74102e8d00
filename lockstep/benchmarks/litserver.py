"""LitServe with the same model: ``python -m lockstep.benchmarks.litserver RUN PORT``."""

import sys
from pathlib import Path
from typing import Any

import litserve
from fastapi import Request

from lockstep.benchmarks.peers import Classifier


class Served(litserve.LitAPI):
    """A classifier as LitServe's documentation has it; its workers import it from here."""

    def __init__(self, run: Path, **settings: Any):
        super().__init__(**settings)
        self.run = run

    def setup(self, device: str) -> None:  # noqa: ARG002
        self.classifier = Classifier(self.run)

    def decode_request(self, request: Request) -> Any:
        return self.classifier.read(request["file"].file.read())

    def batch(self, inputs: Any) -> Any:
        return list(inputs)

    def predict(self, pixels: Any) -> Any:
        return self.classifier.predict(pixels)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return [output]


if __name__ == "__main__":
    api = Served(Path(sys.argv[1]), max_batch_size=64, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu").run(
        port=int(sys.argv[2]), log_level="warning", generate_client_file=False
    )
