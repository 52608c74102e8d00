"""The page at ``/docs``: each route with a request to copy, and what the model takes."""

import html
import json
import shlex
from typing import Any

from lockstep.answers.inputs import Numbers, Picture, Takes, Tensor, Text
from lockstep.serving.gate import PREDICT

_ROUTES = {
    "/model": "the run that answers, what it takes and gives, its labels",
    "/healthz": "the model is loaded",
    "/readyz": "one more request would be accepted",
    "/metrics": "numbers for Prometheus",
    "/openapi.json": "the description for tools",
}
_RULE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {"Content-Security-Policy": _RULE, "Referrer-Policy": "no-referrer"}


def guide(name: str, takes: Takes, example: Any, token: bool) -> bytes:
    """Return the page; ``example`` is an input in JSON, None if there is none to show.

    With ``token``, the requests send LOCKSTEP_TOKEN.
    """
    kind = json.dumps(takes.described(), ensure_ascii=False)
    routes = [(f"POST {PREDICT}", "an answer for each input", _request(takes, example, token))]
    routes += [
        (f"GET {path}", text, _curl(path, "", token and path not in ("/healthz", "/readyz")))
        for path, text in _ROUTES.items()
    ]
    rows = "".join(
        f"<h2><code>{route}</code></h2><p>{text}</p><pre>{html.escape(command)}</pre>\n"
        for route, text, command in routes
    )
    return _PAGE.format(name=html.escape(name), kind=html.escape(kind), rows=rows).encode()


def _request(takes: Takes, example: Any, token: bool) -> str:
    """A prediction of a file, or of an input that fits on a line."""
    match takes:
        case Picture():
            body = "--data-binary @picture.png -H 'Content-Type: image/png'"
        case Tensor():
            body = "--data-binary @inputs.npy -H 'Content-Type: application/x-npy'"
        case Text():
            body = "--data-binary 'a text' -H 'Content-Type: text/plain; charset=utf-8'"
        case Numbers(names):
            shown = example if example is not None else dict.fromkeys(names, 0.0)
            body = f"--data {shlex.quote(json.dumps([shown], ensure_ascii=False))}"
            body += " -H 'Content-Type: application/json'"
            if not shown:  # how many numbers it takes is not known here
                body = "--data-binary @inputs.csv -H 'Content-Type: text/csv'"
    return _curl(PREDICT, f" {body}", token)


def _curl(path: str, body: str, token: bool) -> str:
    access = ' -H "Authorization: Bearer $LOCKSTEP_TOKEN"' if token else ""
    return f'curl --fail-with-body{access}{body} "$SERVER{path}"'


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Requests to {name}</title>
<h1>Requests to {name}</h1>
<p>The model takes: <code>{kind}</code></p>
<p>In the requests, SERVER is the address of this server, such as:</p>
<pre>SERVER=http://127.0.0.1:8000</pre>
{rows}</html>
"""
