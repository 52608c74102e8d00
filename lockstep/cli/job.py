"""The verb that SageMaker's service calls in the image."""

import argparse
import os

from lockstep.cli.verbs import Verbs
from lockstep.ground.console import show


def add_to(verbs: Verbs) -> None:
    """Add container."""
    verb = verbs.add(container, json=False, listed=False)
    verb.add_argument("action", choices=("train", "serve"))


def container(options: argparse.Namespace) -> int:
    """Train or serve as SageMaker asks for it, from and to /opt/ml."""
    from pathlib import Path

    ml = Path(os.environ.get("LOCKSTEP_ML", "/opt/ml"))
    if options.action == "train":
        from lockstep.sagemaker.job import train

        return train(ml)
    from lockstep.serving.limits import Limits
    from lockstep.serving.stopping import Stop

    # Before all else: as the first process of a container it would not be ended by a signal.
    stop = Stop(Limits.stopping).listen()
    from lockstep.loading import find, served
    from lockstep.serving.server import serve

    source = find(str(ml / "model"), ml)
    serve(
        lambda: served(source),
        "0.0.0.0",
        int(os.environ.get("SAGEMAKER_BIND_TO_PORT") or 8080),
        lambda line: show(line, flush=True),
        stop=stop,
        guarded=True,  # by the service, which asks who calls
    )
    return 0
