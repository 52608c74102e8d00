"""Verbs on the workspace: its settings, its health, a new model."""

import argparse
import json

from lockstep.cli import schema
from lockstep.cli.training import resolved
from lockstep.cli.verbs import Verbs, add_recipe
from lockstep.ground.console import show


def add_to(verbs: Verbs) -> None:
    """Add config, doctor and new-model."""
    add_recipe(verbs.add(config))
    verbs.add(doctor)
    verb = verbs.add(new_model, "new-model", json=False)
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--like", metavar="EXAMPLE", help="the example to copy (default: digits)")
    verb.add_argument("--data", metavar="NAME", help="the data set of its recipes")


def config(options: argparse.Namespace) -> None:
    """Print every setting of a recipe: value, type, where it came from, what it means."""
    from lockstep.config.recipe import explain

    lines = explain(*resolved(options))
    if options.json:
        show(json.dumps([vars(line) for line in lines], indent=2))
        return
    from lockstep.ground.console import table

    rows = [[line.key, str(line.value), line.type, line.source, line.help] for line in lines]
    table(["setting", "value", "type", "from", "meaning"], rows)


def doctor(options: argparse.Namespace) -> int:
    """Check interpreter, lock, variables, CPU, GPU, disk and docker; exit 1 if something is off."""
    from lockstep.workspace.doctor import examine

    findings = examine()
    if options.json:
        show(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            show(f"{'ok  ' if finding.ok else 'FIX '}  {finding.name}: {finding.text}")
    return 0 if all(finding.ok for finding in findings) else 1


def new_model(options: argparse.Namespace) -> None:
    """Write a model folder that trains, copied from an example."""
    from lockstep.data import catalog
    from lockstep.workspace.template import DEFAULT, write_model

    if options.data:
        catalog.entry(options.data)
    for path in write_model(options.name, options.like or DEFAULT, options.data):
        show(path)
    schema.refresh(options.name)
    show(f"train it: invoke train --model {options.name}")
