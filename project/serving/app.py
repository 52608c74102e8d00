"""A finished run over HTTP: ``app`` makes the application, ``serve`` has it listen."""

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from project import trained
from project.errors import DataError, Interrupted, ServingError
from project.records.receipt import Run

_STOPPING = 3  # seconds that requests under way may still take
_BODY = {
    "image/png": {"schema": {"type": "string", "format": "binary"}},
    "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
    "application/json": {
        "schema": {"type": "array", "items": {"type": "array"}, "description": "pictures"}
    },
}


def app(run_folder: str | Path) -> FastAPI:
    """The application that answers with the model of a finished run, which is loaded here.

    ``GET /healthz`` answers as soon as there is something to answer with, ``GET /model`` says which
    run it is, ``POST /predict`` takes a PNG or JPEG, or JSON: a list of pictures, each an array as
    ``pictures.grey`` knows them. It gives what ``Predictor.predict`` gives, a list with an answer
    for each picture; what is no picture is refused with status 400 and one line. Raises RunError,
    ModelError or EnvironmentMismatch as ``trained.predictor``.
    """
    run = Run(Path(run_folder))
    predictor = trained.predictor(run)
    about = _about(run, predictor)
    # Predictions one after the other, as torch computes on one thread; others answer meanwhile.
    computing = ThreadPoolExecutor(1)
    served = FastAPI(title=f"Lockstep: {run.name}", docs_url=None, redoc_url=None)

    @served.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the model is loaded."""
        return {"status": "ok"}

    @served.get("/model")
    async def model() -> dict[str, Any]:
        """Say which run answers: its name, identity, digest of the weights, labels."""
        return about

    @served.post("/predict", openapi_extra={"requestBody": {"content": _BODY}})
    async def predict(request: Request) -> JSONResponse:
        """Label a picture, or a list of them."""
        kind = request.headers.get("content-type", "")
        try:
            body = await request.body()
        except ClientDisconnect as error:
            raise HTTPException(400, "body: the caller went away before its end.") from error

        def answers() -> Any:
            inputs = _arrays(body) if kind.startswith("application/json") else [body]
            return predictor.predict(inputs)

        try:
            found = await asyncio.get_running_loop().run_in_executor(computing, answers)
        except DataError as error:
            raise HTTPException(400, str(error)) from error
        return JSONResponse(found)

    return served


def serve(run_folder: str | Path, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve a finished run until a signal asks to stop; requests under way are answered first.

    ``say`` is told the address once it answers. Raises ServingError if it cannot be listened to,
    Interrupted in the end, and else as ``app``.
    """
    # From the beginning: the first process of a container would not be ended without a handler.
    signal.signal(signal.SIGTERM, _stop)
    with _listening(host, port) as listener:  # before the model is loaded, which takes seconds
        # The same parts whatever else is installed.
        config = uvicorn.Config(
            app(run_folder),
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_level="warning",
            timeout_graceful_shutdown=_STOPPING,
        )
        shown = f"[{host}]" if ":" in host else host
        say(f"serving {Path(run_folder).name} at http://{shown}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])  # ends by the signal that stopped it


def _stop(number: int, _: FrameType | None) -> None:
    raise Interrupted(number, "stopped serving")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; who calls before the model is loaded has to wait."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise ServingError(
            f"{host}:{port}: cannot listen there ({error.strerror}), wanted an address of this "
            "machine and a free port; stop what listens there, or name another with --port N."
        ) from error
    return listener


def _about(run: Run, predictor: Any) -> dict[str, Any]:
    receipt = run.receipt
    assert receipt  # or the predictor would not have loaded
    return {
        "run": receipt["run"],
        "identity": receipt["identity"]["digest"],
        "weights_sha256": receipt["results"]["weights_sha256"],
        "labels": predictor.preprocess.labels,
    }


def _arrays(body: bytes) -> list[list[Any]]:
    """The pictures of a request in JSON: arrays only, for a text would be a path of this machine.

    Raises DataError.
    """
    try:
        inputs = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"body: not readable as JSON ({error}); wanted pictures.") from error
    if not isinstance(inputs, list) or not all(isinstance(item, list) for item in inputs):
        raise DataError(
            "body: found other JSON, wanted a list of pictures, each an array of shape (height, "
            "width), (1, height, width) or (height, width, 3)."
        )
    return inputs
