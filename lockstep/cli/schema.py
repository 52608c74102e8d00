"""The verb that writes the editor's schemas of recipes and catalog files."""

import argparse
import json
import sys

from lockstep.cli.verbs import Verbs
from lockstep.ground import home
from lockstep.ground.console import show
from lockstep.ground.errors import LockstepError


def add_to(verbs: Verbs) -> None:
    """Add schema."""
    verbs.add(schema)


def schema(options: argparse.Namespace) -> None:
    """Write the JSON schemas of recipes and catalog files into .vscode, for the editor."""
    from lockstep.config import editor

    paths = [str(path) for path in editor.write()]
    show(json.dumps(paths, indent=2) if options.json else "\n".join(paths))


def refresh(model: str) -> None:
    """Update the editor's schemas to a model's Config, where they are used; or warn."""
    from lockstep.config import editor

    try:
        editor.refresh(home.here(), model)
    except LockstepError as error:
        show(f"warning: schemas for the editor: {error}", file=sys.stderr)
