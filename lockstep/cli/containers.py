"""Verbs on the images: build, enter, push; the same bits everywhere."""

import argparse
import json

from lockstep.cli.verbs import Verbs, port
from lockstep.ground.console import show
from lockstep.ground.errors import ContainerError


def add_to(verbs: Verbs) -> None:
    """Add image and parity."""
    verb = verbs.add(image)
    verb.add_argument("action", choices=("build", "shell", "lab", "push", "base"))
    verb.add_argument("name", nargs="?", metavar="REPOSITORY", help="where to push")
    verb.add_argument("--gpu", action="store_true", help="with torch for CUDA")
    verb.add_argument(
        "--stage", choices=("develop", "train", "serve", "sagemaker"), default="train"
    )
    verb.add_argument("--port", type=port, default=8888, help="of the lab")
    verb.add_argument("--offline", action="store_true", help="install from wheelhouse/ alone")
    verb = verbs.add(parity)
    verb.add_argument("--full", action="store_true", help="apparel/base as well")
    verb.add_argument("--gpu", action="store_true", help="the GPU image as well, on the CPU")


def in_image(
    options: argparse.Namespace,
    words: list[str],
    *,
    gpus: bool,
    keeps: bool = False,
    network: bool = True,
) -> int:
    """Run the same verb in an image with this machine's runs and data; return its exit code."""
    from lockstep.ground import console
    from lockstep.ground.place import Place
    from lockstep.workspace import containers

    place = Place.default(options.runs)
    words += ["--runs", str(place.runs.absolute()), *(["--json"] if options.json else [])]
    return containers.run(
        options.image, words, place, console.watch(), gpus=gpus, keeps=keeps, network=network
    )


def image(options: argparse.Namespace) -> int:
    """Build, enter or push an image, or pin the base image's newest digest."""
    from lockstep.ground import console
    from lockstep.workspace import containers

    torch, watch = "gpu" if options.gpu else "cpu", console.watch()
    if options.action == "shell":
        return containers.shell(torch, watch)
    if options.action == "lab":
        return containers.lab(torch, options.port, watch)
    if options.action == "base":
        before, after = containers.update_base(watch)
        done = {"before": before, "after": after}
    elif options.action == "push":
        if not options.name:
            raise ContainerError("image push: no repository named; image push HOST/NAME.")
        done = {"pushed": containers.push(options.name, options.stage, torch, watch)}
    else:
        done = {"built": containers.build(options.stage, torch, watch, offline=options.offline)}
    show(json.dumps(done) if options.json else "\n".join(f"{k} {v}" for k, v in done.items()))
    return 0


def parity(options: argparse.Namespace) -> int:
    """Train on the host, in the image and in the dev container; exit 1 if one bit differs."""
    from lockstep.ground import console
    from lockstep.ground.place import Place
    from lockstep.workspace.parity import HEAD, differences
    from lockstep.workspace.parity import parity as train_everywhere

    recipes = ["digits/base", *(["apparel/base"] if options.full else [])]
    data, watch = Place.default().data, console.watch()
    found = {recipe: train_everywhere(recipe, data, watch, gpu=options.gpu) for recipe in recipes}
    wrong = {recipe: differences(trials) for recipe, trials in found.items()}
    if options.json:
        rows = {recipe: [trial.as_dict() for trial in trials] for recipe, trials in found.items()}
        show(json.dumps({"trials": rows, "differences": wrong}, indent=2))
    else:
        for recipe, trials in found.items():
            show(recipe)
            console.table(HEAD, [trial.row() for trial in trials])
            show("\n".join(wrong[recipe]) or "no difference")
    return 1 if any(wrong.values()) else 0
