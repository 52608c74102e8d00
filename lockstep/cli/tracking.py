"""Verbs on the view of the runs in MLflow."""

import argparse
import json

from lockstep.cli.verbs import Verbs, port
from lockstep.ground.console import show
from lockstep.ground.errors import public


def add_to(verbs: Verbs) -> None:
    """Add track and ui."""
    verb = verbs.add(track, runs=True)
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--sync", action="store_true", help="send what is missing (the default)")
    how.add_argument("--follow", action="store_true", help="keep sending until no run is running")
    verb.add_argument("--started-by", type=int, default=0, help=argparse.SUPPRESS)
    verb = verbs.add(ui, json=False, runs=True)
    verb.add_argument("--port", type=port, default=5000, help="where it listens")


def track(options: argparse.Namespace) -> None:
    """Send what MLflow lacks of the runs, each item exactly once."""
    from lockstep.ground import console
    from lockstep.ground.place import Place
    from lockstep.tracking import follower, view

    folder = Place.default(options.runs).runs
    if options.follow:
        return follower.follow(folder, console.watch(), options.started_by)
    sent = follower.send(folder, console.watch())
    address = public(view.address(folder))
    if options.json:
        show(json.dumps({"address": address, "sent": sent}, indent=2))
    else:
        show(f"{len(sent)} run{'s' * (len(sent) != 1)} sent to {address}")


def ui(options: argparse.Namespace) -> None:
    """Show the runs in MLflow's page, on this machine only, until a signal asks to stop."""
    from lockstep.ground import console
    from lockstep.ground.place import Place
    from lockstep.tracking import page

    folder = Place.default(options.runs).runs
    page.show(folder, options.port, console.watch(), lambda line: show(line, flush=True))
