"""A model over HTTP: ``app`` makes the application of whatever can be served."""

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from lockstep.answers import golden
from lockstep.answers.inputs import Numbers
from lockstep.answers.predictor import Predictor
from lockstep.loading import Served
from lockstep.serving import description
from lockstep.serving.asking import Asking
from lockstep.serving.gate import PREDICT, Gate
from lockstep.serving.guide import HEADERS, guide
from lockstep.serving.limits import Limits
from lockstep.serving.metrics import KIND, Metrics
from lockstep.serving.page import page
from lockstep.serving.stopping import Stop


def app(
    served: Served,
    token: str | None = None,
    limits: Limits | None = None,
    hosts: Collection[str] | None = None,
    stop: Stop | None = None,
) -> Gate:
    """The application that answers with a model, as `docs/serving.md` says.

    With a ``token`` all but the page and the probes is for those who know it; with ``hosts`` only
    those are answered who called the server by one of these names. It is ready until ``stop``.
    """
    metrics = Metrics(served.name, str(served.about.get("identity", "")))
    asking = Asking(served.predictor, limits or Limits(), metrics)
    return Gate(_rest(served, asking, metrics, stop, bool(token)), asking, metrics, token, hosts)


def _rest(
    served: Served, asking: Asking, metrics: Metrics, stop: Stop | None, token: bool
) -> FastAPI:
    """All that need not be fast."""
    rest = FastAPI(title=f"Lockstep: {served.name}", docs_url=None, redoc_url=None)
    predictor = served.predictor
    about = served.about | {
        "takes": predictor.takes.described(),
        "gives": predictor.gives,
        "labels": predictor.preprocess.labels,
    }

    @rest.get("/", include_in_schema=False)
    async def index() -> Response:
        content, headers = page()
        return Response(content, media_type="text/html", headers=headers)

    @rest.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the model is loaded."""
        return {"status": "ok"}

    @rest.get("/readyz", responses={503: {"description": "it is busy, or stopping"}})
    async def readyz() -> JSONResponse:
        """Say whether one more request would be taken."""
        status = "ready" if asking.ready else "busy"
        if stop and stop.number is not None:
            status = "stopping"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @rest.get("/model")
    async def model() -> dict[str, Any]:
        """Say which run answers, what it takes and what its labels are."""
        return about

    @rest.get("/metrics", response_class=Response, responses={200: {"content": {KIND: {}}}})
    async def numbers() -> Response:
        """Numbers for Prometheus."""
        return Response(metrics.page(), media_type=KIND)

    example, answers = _example(predictor)
    requests = guide(served.name, predictor.takes, example, token)

    @rest.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(requests, media_type="text/html", headers=HEADERS)

    described = rest.openapi()
    described["paths"][PREDICT] = description.path(predictor, example, answers)
    return rest


def _example(predictor: Predictor) -> tuple[Any, list[Any]]:
    """An input in JSON and its answer, if there are golden answers to make it of."""
    if predictor.golden is None:
        return None, []
    takes, shown = predictor.takes, predictor.as_input(golden.examples(predictor.golden)[0])
    given: Any = shown if isinstance(shown, str) else golden.as_lists(shown)
    if isinstance(takes, Numbers) and len(takes.names) == len(given):
        given = dict(zip(takes.names, given, strict=True))
    return given, predictor.predict([shown])
