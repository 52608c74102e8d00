"""The verb that SageMaker's service calls in the image."""

import argparse
import os

from project.cli.verbs import Verbs


def add_to(verbs: Verbs) -> None:
    """Add container."""
    verb = verbs.add(container, json=False)
    verb.add_argument("action", choices=("train",))


def container(_: argparse.Namespace) -> int:
    """Train or serve as SageMaker asks for it, from and to /opt/ml."""
    from pathlib import Path

    from project.deployment.container import train

    return train(Path(os.environ.get("LOCKSTEP_ML", "/opt/ml")))
