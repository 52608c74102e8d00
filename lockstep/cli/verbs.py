"""The parts of a verb: a function, its help text, its options."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.ground import home
from lockstep.ground.console import show
from lockstep.ground.errors import SettingError, WriteError

if TYPE_CHECKING:
    from lockstep.records.run import Run


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """argparse's help, without the defaults that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default in ("", [])
        if silent or "default:" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Verbs:
    """The verbs of a parser; each is a function from the options to the exit code."""

    def __init__(self, parser: argparse.ArgumentParser):
        self._verbs = parser.add_subparsers(required=True, metavar="VERB")
        self.sentences: dict[str, str] = {}  # of each verb, for people

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
        listed: bool = True,
    ) -> argparse.ArgumentParser:
        """Add a verb named as its function, with the first line of its docstring as its help.

        It has ``--json`` and, for those that look into the folder of the runs, ``--runs``. What
        only programs call is not ``listed`` among the tasks.
        """
        text = (function.__doc__ or "").partition("\n")[0]
        name = name or function.__name__
        added = self._verbs.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=Help,
        )
        if listed:
            self.sentences[name] = text
        added.set_defaults(verb=function)
        if json:
            added.add_argument("--json", action="store_true", help="print JSON for a script")
        if runs:
            text = "folder of the runs (default: LOCKSTEP_RUNS, or else runs)"
            added.add_argument("--runs", metavar="DIR", help=text)
        return added


def run_of(name: str, folder: Path) -> "Run":
    """Return the run that a word of the command line means; say which one if it is the newest.

    Raises RunError as ``find_run`` does.
    """
    from lockstep.records.run import find_run

    return find_run(name, folder, said)


def said(line: str) -> None:
    """Say a line to people, aside from the output."""
    show(line, file=sys.stderr)


def attached(words: Sequence[str]) -> list[str]:
    """The words, with ``--sort -KEY`` as one, for argparse takes -KEY for an option.

    What stands behind ``--`` is left as it is.
    """
    found: list[str] = []
    for word in words:
        if "--" in found:
            found.append(word)
        elif found and found[-1] == "--sort" and word[:1] == "-" != word[1:2]:
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def elsewhere(error: WriteError, options: argparse.Namespace) -> WriteError:
    """Return the error with the option that names another place to write to."""
    from lockstep.ground.place import Place

    place, path = Place.default(options.runs if "runs" in options else None), error.path.resolve()
    if path.is_relative_to(place.data.resolve()):
        option = "LOCKSTEP_DATA=DIR"
    elif "output" in options:
        option = "--output PATH"
    elif "report" in options and path == Path(options.report or "").resolve():
        option = "--report FILE"
    elif "runs" in options and path.is_relative_to(place.runs.resolve()):
        option = "--runs DIR"
    else:
        return error
    return WriteError(
        error.path, error.reason, f"{error.remedy} or choose another place ({option})"
    )


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
    """Add the options that name an experiment: a recipe, overrides, a seed."""
    text = "a model, and one of its recipes (default: base)"
    verb.add_argument("recipe", nargs="?", default="", metavar="MODEL[/RECIPE]", help=text)
    text = "a setting, as training.lr=0.01; `invoke config` lists all"
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    text = "the same as the first word; the only model there is, if it is left out"
    verb.add_argument("--model", dest="model_name", metavar="MODEL", help=text)
    verb.add_argument("--recipe", dest="recipe_name", metavar="RECIPE", help="base if left out")
    text = "the same as KEY=VALUE; may be repeated"
    verb.add_argument("--set", dest="sets", action="append", metavar="KEY=VALUE", help=text)
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of all random numbers")


def name_recipe(options: argparse.Namespace) -> None:
    """Normalise the options of ``add_recipe``: ``recipe`` as MODEL/RECIPE, ``overrides``.

    Raises SettingError if two models or recipes are named, ModelError if none is and there are
    several.
    """
    word, overrides = options.recipe, [*options.overrides, *(options.sets or ())]
    if "=" in word:  # only overrides were given
        word, overrides = "", [word, *overrides]
    model, _, recipe = word.partition("/")
    for kind, first, second in (
        ("model", model, options.model_name),
        ("recipe", recipe, options.recipe_name),
    ):
        if first and second and first != second:
            raise SettingError(f"{kind}: found {first} and {second}, expected one of them.")
    model = model or options.model_name or home.here().default_model()
    options.recipe = f"{model}/{recipe or options.recipe_name or 'base'}"
    options.overrides = overrides


def add_image(verb: argparse.ArgumentParser) -> None:
    """The choice to run in an image."""
    text = "in the image, not on the host"
    verb.add_argument("--in", dest="image", choices=("cpu", "gpu"), help=text)
