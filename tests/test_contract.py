"""Every model, recipe and data set of our project keeps the contract of lockstep/docs/models.md."""

from pathlib import Path

import pytest

from lockstep import testing


@pytest.mark.parametrize("model", testing.models())
def test_a_model_trains_saves_loads_and_answers(model: str, tmp_path: Path) -> None:
    testing.check_model(model, tmp_path)


@pytest.mark.parametrize("recipe", testing.recipes())
def test_a_recipe_resolves(recipe: str) -> None:
    testing.check_recipe(recipe)


@pytest.mark.parametrize("name", testing.data_sets())
def test_a_data_set_of_the_catalog_is_whole(name: str) -> None:
    testing.check_data_set(name)
