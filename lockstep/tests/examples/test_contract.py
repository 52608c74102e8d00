"""The examples keep the contract page: mypy sees that each package is what ``Parts`` says."""

from lockstep.examples.models import apparel, digits, tags
from lockstep.ground import home
from lockstep.model import Parts

PARTS: dict[str, Parts] = {"apparel": apparel, "digits": digits, "tags": tags}


def test_the_packages_that_are_checked_are_all_examples() -> None:
    assert [*PARTS] == home.examples().models()
