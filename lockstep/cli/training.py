"""Verbs that train and use what was trained."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from lockstep.cli import schema
from lockstep.cli.containers import in_image
from lockstep.cli.verbs import Verbs, add_image, add_recipe, run_of
from lockstep.ground import home
from lockstep.ground.console import show
from lockstep.ground.errors import SettingError

if TYPE_CHECKING:
    from lockstep.config.experiment import Experiment
    from lockstep.config.recipe import Source


def add_to(verbs: Verbs) -> None:
    """Add train and evaluate."""
    verb = verbs.add(train, runs=True)
    add_recipe(verb)
    add_image(verb)
    verb.add_argument("--workers", type=int, metavar="N", help="is training.workers=N")
    verb.add_argument("--until", type=int, default=0, metavar="STEP", help="stop there")
    verbs.add(evaluate, runs=True).add_argument("run", metavar="RUN")


def resolved(options: argparse.Namespace) -> tuple["Experiment", dict[str, "Source"]]:
    """The experiment that the options name, and where each setting came from."""
    from lockstep.config.recipe import resolve

    model, _, recipe = options.recipe.partition("/")
    experiment = resolve(
        model,
        home.here().recipe(model, recipe),
        home.here().config_of(model),
        seed=options.seed,
        overrides=options.overrides,
    )
    schema.refresh(model)
    return experiment


def train(options: argparse.Namespace) -> int:
    """Start a run, resume it, or report it if it is finished."""
    if options.workers is not None:
        options.overrides.append(f"training.workers={options.workers}")
    experiment, _ = resolved(options)
    from lockstep.ground.place import Place
    from lockstep.tracking import follower
    from lockstep.training import launch

    folder = Place.default(options.runs).runs
    followed = not launch.is_watched() and not launch.rank() and follower.start(folder)
    code = _train(options, experiment)
    if followed and (problem := follower.problem(folder)):
        show(f"warning: not in MLflow yet: {problem}", file=sys.stderr)
    return code


def _train(options: argparse.Namespace, experiment: "Experiment") -> int:
    from lockstep.ground import profiles
    from lockstep.ground.console import number
    from lockstep.ground.processes import follow_parent, is_worker
    from lockstep.training import launch

    settings = experiment.training
    if options.image:
        words = ["train", options.recipe, *options.overrides, "--seed", str(options.seed)]
        words += ["--until", str(options.until)] if options.until else []
        return in_image(options, words, gpus=settings.device == "cuda")
    if "torch" in sys.modules and profiles.differing(settings.profile):
        # Settings are read first, so only their module can have loaded it by now.
        path = home.here().folder_of(experiment.model) / "config.py"
        raise SettingError(
            f"{path}: loads torch, expected not to, as training.profile={settings.profile} chooses "
            "torch's kernels before it is loaded; import it in model.py or preprocess.py instead."
        )
    profiles.enter(settings.profile)
    workers = launch.count(settings.workers, settings.shards, settings.device)
    if is_worker():
        follow_parent()
    elif workers > 1:
        return launch.by_torchrun(workers, options.words)
    from lockstep.ground import console
    from lockstep.ground.place import Place
    from lockstep.ground.watch import Watch
    from lockstep.records.receipt import metrics_of, monitor_of
    from lockstep.run.story import run_experiment

    watch = Watch() if launch.rank() else console.watch()
    run = run_experiment(experiment, Place.default(options.runs), watch, options.until)
    if run is None:  # we are not the first worker, who tells
        return 0
    receipt = run.receipt
    if receipt is None:
        show(f"run {run.folder}\n{run.state}, as --until says")
    elif options.json:
        show((run.folder / "receipt.json").read_text(), end="")
    else:
        results = receipt["results"]
        show(f"run {run.folder}")
        show(f"weights sha256 {results['weights_sha256']}")
        monitor = monitor_of(receipt, run.settings)
        show(f"test {monitor} {number(metrics_of(receipt)[f'test.{monitor}'])}")
        if receipt["environment"]["notebook"]:
            again = f"`invoke reproduce {run.name}` trains it again from its source alone"
            show(f"trained from a notebook; {again}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Measure a run's weights on the test split again; exit 1 if its receipt says otherwise."""
    from lockstep import loading
    from lockstep.ground import console
    from lockstep.ground.place import Place

    place = Place.default(options.runs)
    run = run_of(options.run, place.runs)
    predictor = loading.predictor(run)
    from lockstep.run.story import evaluate_run  # loads torch, for which the profile now stands
    from lockstep.training.metrics import figures

    found, expected = evaluate_run(run, predictor, place, console.watch())
    if options.json:
        show(json.dumps({"test": found, "as_in_receipt": found == expected}, indent=2))
    else:
        shown = [f"{name} {console.number(value)}" for name, value in figures(found).items()]
        show(f"test {'  '.join(shown)}")
        show("as in the receipt" if found == expected else "NOT as in the receipt")
    return 0 if found == expected else 1
