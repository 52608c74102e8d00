"""How a verb of the command line is made: a function, its sentence, its options."""

import argparse
from collections.abc import Callable, Sequence


class Verbs:
    """The verbs of a parser; each is a function that gets the options and gives the exit code."""

    def __init__(self, parser: argparse.ArgumentParser):
        self._verbs = parser.add_subparsers(required=True, metavar="VERB")

    @property
    def names(self) -> list[str]:
        """All verbs, in the order of the help."""
        return list(self._verbs.choices)

    def add(
        self,
        function: Callable[[argparse.Namespace], int | None],
        name: str = "",
        *,
        json: bool = True,
        runs: bool = False,
    ) -> argparse.ArgumentParser:
        """A verb named as its function, with the first line of its docstring as its help.

        It has ``--json`` and, for those that look into the folder of the runs, ``--runs``.
        """
        text = (function.__doc__ or "").partition("\n")[0]
        added = self._verbs.add_parser(name or function.__name__, help=text, description=text)
        added.set_defaults(verb=function)
        if json:
            added.add_argument("--json", action="store_true", help="print JSON for a script")
        if runs:
            text = "folder of the runs (default: LOCKSTEP_RUNS, or else runs)"
            added.add_argument("--runs", metavar="DIR", help=text)
        return added


def attached(words: Sequence[str]) -> list[str]:
    """The words, with ``--sort -KEY`` as one, for argparse takes -KEY for an option."""
    found: list[str] = []
    for word in words:
        if found and found[-1] == "--sort" and word[:1] == "-" != word[1:2]:
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def count(text: str) -> int:
    """A whole number from 1, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def port(text: str) -> int:
    """A port's number, for argparse."""
    if not 0 < (number := int(text)) < 65536:
        raise ValueError
    return number


def add_recipe(verb: argparse.ArgumentParser) -> None:
    """What names an experiment: a recipe, overrides, a seed."""
    verb.add_argument("recipe", nargs="?", default="", metavar="MODEL[/RECIPE]")
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    verb.add_argument("--seed", type=int, default=0)


def add_image(verb: argparse.ArgumentParser) -> None:
    """The choice to run in an image."""
    text = "in the image, not on the host"
    verb.add_argument("--in", dest="image", choices=("cpu", "gpu"), help=text)
