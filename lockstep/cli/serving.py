"""The verb that serves a finished run."""

import argparse
import os

from lockstep.cli.verbs import Verbs, port, said
from lockstep.ground.console import show
from lockstep.ground.errors import RunError


def add_to(verbs: Verbs) -> None:
    """Add serve."""
    verb = verbs.add(serve, json=False, runs=True)
    text = "default: LOCKSTEP_RUN, or else the only one there is"
    verb.add_argument("run", nargs="?", metavar="RUN", help=text)
    verb.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen at; any but this machine's own demands LOCKSTEP_TOKEN",
    )
    verb.add_argument("--port", type=port, default=8000)
    text = "ONNX Runtime computes: faster, other last bits than in training"
    verb.add_argument("--onnx", action="store_true", help=text)


def serve(options: argparse.Namespace) -> None:
    """Answer over HTTP with the model of a run or a bundle, until a signal asks to stop."""
    from lockstep.serving.limits import Limits
    from lockstep.serving.stopping import Stop

    # Before all else: as the first process of a container it would not be ended by a signal.
    stop = Stop(Limits.stopping).listen()
    from lockstep.ground.place import Place
    from lockstep.loading import find
    from lockstep.records.run import runs

    folder = Place.default(options.runs).runs
    # A word that is empty is refused as a name; the variable is empty where Compose has none.
    given = options.run if options.run is not None else os.environ.get("LOCKSTEP_RUN") or None
    if given is None:
        if len(found := [run for run in runs(folder) if not run.script]) != 1:
            raise RunError(
                f"serve: found {len(found)} runs in {folder}, expected one, or the name of one; "
                "serve RUN, or LOCKSTEP_RUN=RUN (`invoke runs` lists all)."
            )
        given = found[0].name
    source = find(given, folder, said)
    from lockstep.loading import served
    from lockstep.serving.server import serve as listen

    listen(
        lambda: served(source, onnx=options.onnx),
        options.host,
        options.port,
        lambda line: show(line, flush=True),
        os.environ.get("LOCKSTEP_TOKEN"),
        stop=stop,
    )
