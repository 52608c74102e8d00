"""The verb that searches for better settings."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.cli.verbs import Verbs, add_recipe, count
from lockstep.ground import home
from lockstep.ground.console import show

if TYPE_CHECKING:
    from lockstep.config.experiment import Experiment
    from lockstep.ground.place import Place
    from lockstep.tuning.study import Study


def add_to(verbs: Verbs) -> None:
    """Add tune."""
    verb = verbs.add(tune, runs=True)
    add_recipe(verb)
    verb.add_argument("--trials", type=count, default=20, metavar="N", help="how many in all")
    verb.add_argument("--parallel", type=count, default=1, metavar="N", help="at the same time")
    verb.add_argument("--batch", type=count, default=4, metavar="N", help="proposed together")
    verb.add_argument("--storage", metavar="URL", help="postgresql://..., for several machines")
    verb.add_argument("--name", default="tuned", help="of the recipe to write")
    verb.add_argument("--as-worker", action="store_true", help=argparse.SUPPRESS)


def tune(options: argparse.Namespace) -> None:
    """Search for better settings; each trial is a run. The best becomes a recipe."""
    from importlib.util import find_spec

    from lockstep.ground import console, profiles
    from lockstep.ground.errors import EnvironmentMismatch
    from lockstep.ground.place import Place

    if not find_spec("optuna"):
        raise EnvironmentMismatch(
            "optuna: not found, expected for the search; it is in the environment of "
            "./workbench and in the image of the stage develop."
        )
    profiles.enter(_experiment(options, []).training.profile)
    place = Place.default(options.runs)
    study, monitor = _study(options, place)
    if options.as_worker:
        return _work(options, study, monitor, place)
    from lockstep.tracking import follower
    from lockstep.tuning import work

    follower.start(place.runs)
    path = _new_recipe(options, study)
    watch = console.watch()
    watch.say(f"study {study.name}")
    words = [*options.words, "--as-worker"]
    try:
        work.follow(study, options.trials, options.parallel, words, watch)
    finally:
        page = _report(options, study, monitor)
    best = study.best(options.trials)
    if best:
        _write_recipe(options, study, path, monitor)
    if options.json:
        show(json.dumps(_listed(study, options.trials), indent=2))
        return
    show(f"report {page}")
    if best:
        run = best.user_attrs["run"]
        value = console.number(best.value)
        show(f"best trial {best.number}: validation {monitor} {value}, run {run}")
        show(f"recipe {path}")
    else:
        show("no trial was trained to its end")


def _experiment(options: argparse.Namespace, overrides: list[str]) -> "Experiment":
    """The recipe of the options with more overrides; one process, as the trials share the cores."""
    from lockstep.cli.training import resolved

    more = [*options.overrides, *overrides, "training.workers=1"]
    given = vars(options) | {"overrides": more}
    return resolved(argparse.Namespace(**given))[0]


def _recipe(options: argparse.Namespace) -> tuple[str, Path]:
    model, _, recipe = options.recipe.partition("/")
    return model, home.here().recipe(model, recipe)


def _study(options: argparse.Namespace, place: "Place") -> tuple["Study", str]:
    """The study of the options, and the metric that it goes by."""
    from lockstep.ground.errors import SettingError
    from lockstep.ground.watch import Watch
    from lockstep.run.keeping import files_that_make, fold_of, open_data, what_decides
    from lockstep.run.making import objective
    from lockstep.tuning import space as spaces
    from lockstep.tuning.study import Study

    model, recipe = _recipe(options)
    space = spaces.read(recipe, lambda overrides: _experiment(options, overrides))
    if twice := [o for o in options.overrides if o.partition("=")[0].strip() in space]:
        raise SettingError(f"override: {twice[0]}: is searched by the recipe's section `tune`.")
    experiment = _experiment(options, [])
    dataset = open_data(experiment.data.name, place, Watch(), fold_of(experiment))
    files = files_that_make(experiment.model)
    decides = what_decides(experiment, dataset, files, place)
    monitor, lower = objective(experiment, dataset)
    return (
        Study(
            place.runs / "studies",
            f"{model}-{recipe.stem}",
            space,
            _base(experiment, space),
            seed=options.seed,
            batch=options.batch,
            direction="minimize" if lower else "maximize",
            decides=decides,
            url=options.storage,
        ),
        monitor,
    )


def _base(experiment: "Experiment", space: Any) -> dict[str, Any]:
    """What the recipe itself says of the settings in the space; a list as its text."""
    plain = experiment.as_dict()
    found = {}
    for key in space:
        section, _, name = key.partition(".")
        value = plain[section][name]
        found[key] = json.dumps(value) if isinstance(value, list) else value
    return found


def _work(options: argparse.Namespace, study: "Study", monitor: str, place: "Place") -> None:
    from lockstep.ground.processes import follow_parent
    from lockstep.ground.watch import Watch
    from lockstep.records.run import Run
    from lockstep.run.story import run_experiment
    from lockstep.tuning.space import overrides
    from lockstep.tuning.work import work

    follow_parent()

    def train(tried: dict[str, Any], watch: Watch) -> Run:
        run = run_experiment(_experiment(options, overrides(tried)), place, watch)
        assert run  # there is one process
        return run

    work(study, options.trials, train, monitor, place.runs)


def _new_recipe(options: argparse.Namespace, study: "Study") -> Path:
    """Where the best trial's recipe goes. Raises SettingError if another recipe is there."""
    from lockstep.ground.errors import SettingError

    _, base = _recipe(options)
    path = base.with_name(f"{options.name}.yaml")
    if path.exists() and f"study {study.name}" not in path.read_text():
        raise SettingError(
            f"{path}: is there already and not of this study ({study.name}); commit it under "
            "another name, or give one with --name."
        )
    return path


def _write_recipe(options: argparse.Namespace, study: "Study", path: Path, monitor: str) -> None:
    import os

    from lockstep.ground import console
    from lockstep.tuning.space import overrides
    from lockstep.tuning.work import write_recipe

    model, base = _recipe(options)
    best: Any = study.best(options.trials)
    test, seconds = console.number(best.user_attrs["test"]), best.user_attrs["seconds"]
    cost = f"{seconds / 60:.0f} min" if seconds >= 100 else f"{max(seconds, 1):.0f} s"
    words = f"--model {model} " if len(home.here().models()) > 1 else ""
    lines = [
        f"invoke train {words}--recipe {path.stem} --seed {options.seed}",
        f"{cost} on {os.cpu_count()} cores, test {monitor} {test} with seed {options.seed}",
        f"study {study.name}, trial {best.number} of {options.trials}: validation {monitor} "
        f"{console.number(best.value)}",
    ]
    write_recipe(base, path, lines, [*options.overrides, *overrides(best.params)])


def _report(options: argparse.Namespace, study: "Study", monitor: str) -> Path:
    from lockstep.ground.files import write_atomically
    from lockstep.records.study import page

    path = study.folder / "report.html"
    trials = _listed(study, options.trials)
    importances = study.importances()
    write_atomically(path, page(study.name, monitor, study.direction, trials, importances))
    return path


def _listed(study: "Study", total: int) -> list[dict[str, Any]]:
    """The trials as plain values, by number."""
    return [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value,
            "settings": dict(trial.params),
            "epochs": len(trial.intermediate_values),
            "run": trial.user_attrs.get("run"),
            "weights_sha256": trial.user_attrs.get("weights_sha256"),
            "failed": trial.user_attrs.get("failed"),
        }
        for trial in study.trials()[:total]
    ]
