"""House rules of the examples' recipes: each says how to run it, its cost and its accuracy."""

import re
from pathlib import Path

import pytest

from lockstep.config.recipe import resolve
from lockstep.data import catalog
from lockstep.ground import home
from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.run.keeping import open_data
from lockstep.run.level import doubts
from lockstep.run.making import Setup
from lockstep.testing import open_or_skip
from lockstep.tests.conftest import ADAPTED
from lockstep.training.determinism import enforce
from lockstep.training.distributed import ALONE

EXAMPLES = home.examples()
RECIPES = {
    f"{model}/{name}": path
    for model in EXAMPLES.models()
    for name, path in EXAMPLES.recipes(model).items()
}
each = pytest.mark.parametrize(
    ("model", "path"),
    [pytest.param(recipe.split("/")[0], path, id=recipe) for recipe, path in RECIPES.items()],
)
COST = r"# \d+ (s|min) on 2 cores, test [a-z0-9]+ \d+\.\d+ with seed 42"


def test_every_model_has_a_base_recipe() -> None:
    assert [name for name in EXAMPLES.models() if f"{name}/base" not in RECIPES] == []


@each
def test_a_recipe_resolves_and_names_a_data_set_of_the_catalog(model: str, path: Path) -> None:
    experiment, written = resolve(model, path, EXAMPLES.config_of(model), seed=42)
    assert (experiment.model, experiment.recipe) == (model, path.stem)
    assert catalog.entry(experiment.data.name).rows
    assert {source.place for source in written.values()} == {f"{model}/recipes/{path.name}"}


@each
def test_the_first_line_is_the_command_that_runs_it(model: str, path: Path) -> None:
    words = ["invoke", "train"]
    words += ["--model", model] if model != "digits" else []
    words += ["--recipe", path.stem] if path.stem != "base" else []
    assert path.read_text().splitlines()[0] == f"# {' '.join(words)} --seed 42"


@each
def test_the_second_line_is_the_cost_and_what_it_brings(model: str, path: Path) -> None:
    assert re.match(COST, path.read_text().splitlines()[1])


@pytest.mark.slow
@each
def test_a_recipe_promises_every_cpu(model: str, path: Path) -> None:
    """Its kernels, from the examples to the update, are among those tried on other CPUs."""
    if model in ADAPTED:
        pytest.skip(f"needs {ADAPTED[model]}: tests/adapters brings it along")
    experiment, _ = resolve(model, path, EXAMPLES.config_of(model), seed=42)
    enforce(experiment.training.profile, "cpu")
    dataset = open_or_skip(experiment.data.name)
    assert doubts(Setup(experiment, dataset, ALONE)) == set()


def test_the_best_apparel_has_at_most_half_a_million_parameters(place: Place) -> None:
    path = RECIPES["apparel/best"]
    experiment, _ = resolve("apparel", path, EXAMPLES.config_of("apparel"))
    setup = Setup(experiment, open_data("fashion-mnist", place, Watch()), ALONE)
    assert setup.training.flat.values.numel() == 489_042
