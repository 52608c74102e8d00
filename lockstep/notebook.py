"""What notebooks call: data and training in the kernel. Import it before torch."""

import sys
from typing import TYPE_CHECKING

from lockstep.ground import home, profiles
from lockstep.ground.errors import EnvironmentMismatch
from lockstep.records import source

if TYPE_CHECKING:
    from lockstep.answers.predictor import Predictor
    from lockstep.data.dataset import Dataset
    from lockstep.records.run import Run

profiles.prefer("portable")  # so that `import torch` may be the next line

# Source as it was when it was loaded, or earlier; it is in the identity as it is when training
# starts, which must be the same.
_SEEN = {
    path.relative_to(folder.parent).as_posix(): path.read_bytes()
    for folder in (home.ENGINE, home.here().folder)
    for path in folder.rglob("*.py")
}


def train(
    recipe: str = "",
    *overrides: str,
    seed: int = 0,
    runs: str | None = None,
    until: int = 0,
) -> "Run":
    """Start a run in this process, resume it, or return it if it is finished.

    As ``invoke train``, in one worker: ``train("digits", "training.lr=0.01", seed=42)``. Raises
    EnvironmentMismatch if torch was loaded under another profile, or if the source was changed
    since; Interrupted as ``run_experiment``.
    """
    from lockstep.config.recipe import resolve

    model, _, name = recipe.partition("/")
    model = model or home.here().default_model()
    experiment, _ = resolve(
        model,
        home.here().recipe(model, name or "base"),
        home.here().config_of(model),
        seed=seed,
        overrides=overrides,
    )
    profiles.enter(experiment.training.profile)
    _refuse_changed(model)
    from lockstep.ground import environment
    from lockstep.ground.console import Lines
    from lockstep.ground.place import Place
    from lockstep.run.story import run_experiment

    environment.git.cache_clear()  # a kernel lives longer than a commit
    watch = Lines(sys.stdout)
    if sys.flags.hash_randomization:
        watch.say(
            "WARNING: this Python hashes texts differently each time, so a model that depends on "
            "the order of a set has other bits; start it with PYTHONHASHSEED=0, as `invoke "
            "notebook` does."
        )
    run = run_experiment(experiment, Place.default(runs), watch, until)
    assert run  # None is for workers, of which this is none
    return run


def load(model: str, run: "str | Run", runs: str | None = None) -> "Predictor":
    """Return the trained model of a run of this project, ready to predict; ``run`` may be a name.

    Raises what the project's own ``load`` raises.
    """
    from lockstep.model import loader_of

    named = run if isinstance(run, str) else run.folder
    return loader_of(home.here().package)(model, named, runs)


def open_data(name: str) -> "Dataset":
    """A data set of the catalog, fetched and prepared if this machine has it not yet."""
    from lockstep.ground.console import Lines
    from lockstep.ground.place import Place
    from lockstep.run import keeping

    return keeping.open_data(name, Place.default(), Lines(sys.stdout))


def _refuse_changed(model: str) -> None:
    for name, content in source.of_making(home.here(), model).items():
        seen = _SEEN.setdefault(name, content)
        if seen != content and source.digests({name: seen}) != source.digests({name: content}):
            raise EnvironmentMismatch(
                f"{name}: changed since this process loaded it, so the identity would be wrong; "
                "start a new Python process (in a notebook: restart the kernel)."
            )
