"""What a study may try: typed, and all mistakes reported at once."""

from pathlib import Path

import pytest
import yaml

from lockstep.config.experiment import Experiment
from lockstep.config.recipe import resolve
from lockstep.ground import home
from lockstep.ground.errors import SettingError
from lockstep.tuning.space import Choice, Range, Space, overrides, read

HOME = home.examples()
RECIPES = [(model, path) for model in HOME.models() for path in HOME.recipes(model).values()]


def space(section: object, folder: Path) -> Space:
    path = folder / "digits" / "recipes" / "mine.yaml"
    path.parent.mkdir(parents=True)
    recipe = {"data": {"name": "digits"}} | ({"tune": section} if section is not None else {})
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))

    def resolved(overrides: list[str]) -> Experiment:
        return resolve("digits", path, HOME.config_of("digits"), overrides=overrides)[0]

    return read(path, resolved)


def test_a_space_has_ranges_and_choices_in_the_types_of_the_settings(tmp_path: Path) -> None:
    found = space(
        {
            "training.lr": {"low": 0.001, "high": 0.1, "log": True},
            "training.epochs": {"low": 2, "high": 8, "step": 2},
            "training.optimizer": {"choices": ["sgd", "adamw"]},
            "training.shards": {"choices": [1, 8]},
        },
        tmp_path,
    )
    assert found == {
        "training.lr": Range(0.001, 0.1, log=True),
        "training.epochs": Range(2, 8, step=2, whole=True),
        "training.optimizer": Choice(("sgd", "adamw")),
        "training.shards": Choice((1, 8)),
    }


def test_each_mistake_of_a_space_is_told_in_a_line(tmp_path: Path) -> None:
    wrong = {
        "training.lrr": {"low": 0.1, "high": 0.2},
        "training.lr": {"low": -0.1, "high": 0.2},
        "training.epochs": {"low": 0.5, "high": 8},
        "training.batch_size": {"low": 64, "high": 32},
        "training.momentum": {"low": 0, "high": 1, "log": True},
        "training.optimizer": {"choices": ["sgd", "lion"]},
        "training.schedule": {"low": 0, "high": 1},
        "training.shards": {"low": 1, "high": 8},
        "training.workers": {"choices": [1, 2]},
        "training.profile": {"choices": ["native", "portable"]},
        "model.dropout": 0.5,
        "model.hidden": {"choices": [8]},
        "model.shift": {"from": 1, "to": 2},
    }
    with pytest.raises(SettingError) as error:
        space(wrong, tmp_path)
    lines = str(error.value).splitlines()
    where = "digits/recipes/mine.yaml: tune: "
    assert [line.startswith(f"{where}{key}: ") for line, key in zip(lines, wrong, strict=True)] == [
        True
    ] * len(wrong)
    told = [line.removeprefix(where).partition(": ")[2] for line in lines]
    assert told[0] == "no such setting. Did you mean training.lr?"
    assert told[1] == "found -0.1, expected float, at least 0"
    assert told[2] == "found 0.5, expected int, at least 1"
    assert told[5] == "found 'lion', expected str out of adamw, adam, sgd"
    assert told[7] == "takes int, a power of two from 1 to 256, expected choices"
    assert {told[8], told[9]} == {"cannot be searched, as it does not say how to train"}
    assert told[10].startswith("found 0.5, expected {low, high}")


@pytest.mark.parametrize("section", [None, {}, ["training.lr"], 3])
def test_a_recipe_without_a_space_is_told_what_one_looks_like(
    tmp_path: Path, section: object
) -> None:
    with pytest.raises(SettingError, match=r"recipes/mine\.yaml: has no space to search; add"):
        space(section, tmp_path)


def test_a_choice_of_lists_is_an_override_like_any(tmp_path: Path) -> None:
    recipe = HOME.recipe("apparel", "base")
    values = {"model.widths": "[16, 32, 64]", "training.lr": 1e-05}
    found, _ = resolve("apparel", recipe, HOME.config_of("apparel"), overrides=overrides(values))
    assert (found.settings.widths, found.training.lr) == ([16, 32, 64], 1e-05)


@pytest.mark.parametrize(("model", "path"), RECIPES, ids=lambda item: getattr(item, "stem", item))
def test_the_recipes_that_have_a_space_are_in_it_themselves(model: str, path: Path) -> None:
    if "tune" not in yaml.safe_load(path.read_text()):
        return

    def resolved(overrides: list[str]) -> Experiment:
        return resolve(model, path, HOME.config_of(model), overrides=overrides)[0]

    plain = resolved([]).as_dict()
    for key, part in read(path, resolved).items():
        section, _, name = key.partition(".")
        value = plain[section][name]
        assert part.has(str(value) if isinstance(value, list) else value), key
