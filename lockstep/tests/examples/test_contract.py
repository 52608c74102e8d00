"""The examples keep the contract page: mypy sees that each package is what ``Parts`` says."""

from lockstep.examples.models import (
    apparel,
    characters,
    digits,
    forge,
    lora,
    outlines,
    pairs,
    prices,
    scenes,
    squeeze,
    tags,
    teacher,
    tuned,
)
from lockstep.model import Parts
from lockstep.tests.conftest import EXAMPLES

PARTS: dict[str, Parts] = {
    "apparel": apparel,
    "characters": characters,
    "digits": digits,
    "forge": forge,
    "lora": lora,
    "outlines": outlines,
    "pairs": pairs,
    "prices": prices,
    "scenes": scenes,
    "squeeze": squeeze,
    "tags": tags,
    "teacher": teacher,
    "tuned": tuned,
}


def test_the_packages_that_are_checked_are_all_examples() -> None:
    assert [*PARTS] == EXAMPLES
