"""A program's sampling under the laws: after a stop, with loaders and with workers."""

import pytest

from lockstep.ground.errors import SettingError
from lockstep.ground.place import Place
from lockstep.tests.projects import Bring, Project
from lockstep.tests.run.test_rehearsal import digest

RULES = {
    "weighted": "Weighted(1 + target)",
    "balanced": "Balanced(target % 3, {0: 0.5, 1: 0.25, 2: 0.25})",
    "sorted": "Sorted(inputs.sum((1, 2)), window=20)",
    "bucketed": "Bucketed(inputs.sum((1, 2)), batches=2)",
}


def sampled(bring: Bring, rule: str) -> Project:
    parts = ("config.Config", "inference.Predictor", "model.Model", "model.loss")
    lines = [*parts, "preprocess.Preprocess"]
    text = "".join("from .{} import {}\n".format(*line.split(".")) for line in lines)
    text += "from lockstep.model import Balanced, Bucketed, Sorted, Weighted\n\n"
    return bring(__init__=text + f"def sampling(config, inputs, target):\n    return {rule}\n")


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_draws_are_the_same_after_a_stop_and_with_loaders(
    bring: Bring, place: Place, rule: str
) -> None:
    project = sampled(bring, RULES[rule])
    whole = digest(project.train(place))
    assert project.train(place, runs="stopped", until=7).receipt is None
    assert digest(project.train(place, "training.loaders=2", runs="stopped")) == whole
    assert digest(bring().train(place, runs="shuffled")) != whole


@pytest.mark.slow
@pytest.mark.parametrize("words", ["data.sampling=balanced", "data.drop_last=true"])
def test_a_recipe_says_the_sampling(bring: Bring, place: Place, words: str) -> None:
    project = bring()
    run = project.train(place, words)
    assert digest(run) != digest(project.train(place, runs="plain"))
    assert digest(run) == digest(project.train(place, words, runs="again"))


def test_two_samplings_at_once_are_refused(bring: Bring, place: Place) -> None:
    with pytest.raises(SettingError, match=r"data\.sampling: found balanced, expected shuffled"):
        sampled(bring, "None").train(place, "data.sampling=balanced")
