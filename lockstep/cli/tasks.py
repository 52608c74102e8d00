"""The verbs of the command line as invoke tasks: each is declared once, where the verb is.

``invoke VERB WORD ...`` hands its words to the command line as they are, so both take the same
ones. invoke alone knows no positional words that may be left out or repeated, and ends a mistake
with exit code 1.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

from invoke import Collection, Context, ParseError, Program, Task
from invoke.parser import Parser

from lockstep.cli import command_line
from lockstep.ground.errors import nearest

Run = Callable[..., None]
# Options of invoke itself that ask something about tasks, and those that have a value.
_ASKS = {"-h", "--help", "-l", "--list", "--complete", "--print-completion-script"}
_ASKS |= {"-V", "--version"}
_VALUED = {"-c", "--collection", "-f", "--config", "-F", "--list-format", "-r", "--search-root"}
_VALUED |= {"-D", "--list-depth", "-T", "--command-timeout"}


def verb_tasks(run: Run) -> Iterator[Task[Callable[[Context], None]]]:
    """Make a task of each verb, for invoke's list; ``run(*words)`` runs its words."""
    for name, sentence in command_line()[1].sentences.items():
        yield _task(name, sentence, run)


def _task(name: str, sentence: str, run: Run) -> Task[Callable[[Context], None]]:
    def body(_: Context) -> None:
        run(name)

    body.__doc__ = f"{sentence}\n\nOptions: invoke {name} --help"
    return Task(body, name=name)


def hand_over(run: Run, tasks: Collection, argv: Sequence[str]) -> None:
    """Run the verb with which a command line of invoke begins, and exit; if it begins with one.

    ``argv`` are the words after ``invoke``. Where they begin with a task that is no verb, invoke
    runs it, once its options are known to be right. A mistake ends in one line with the nearest
    right name, and exit code 2.
    """
    words = list(argv)
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option.partition("=")[0] in _ASKS:
            return
        if option in _VALUED and words:
            words.pop(0)
    if not words:
        return
    if words[0] not in tasks.task_names:
        hint = nearest(words[0], tasks.task_names)
        _refuse(f"{words[0]}: no such task.{hint} (`invoke --list`)")
    if words[0] not in command_line()[1].sentences:
        return _check(tasks, words[0], argv)
    run(*words)
    raise SystemExit(0)


def _check(tasks: Collection, name: str, argv: Sequence[str]) -> None:
    """Refuse what invoke would end with exit code 1: an option or a value that a task lacks."""
    contexts = tasks.to_contexts()
    try:
        Parser(contexts=contexts, initial=Program().initial_context).parse_argv([*argv])
    except ParseError as error:
        options = next(context for context in contexts if context.name == name).flag_names()
        _refuse(f"{name}: {_reason(str(error), options)} (`invoke {name} --help`)")


def _reason(error: str, options: Iterable[str]) -> str:
    """What invoke says of a mistake, in our words."""
    if unknown := re.fullmatch("No idea what '(.*)' is!", error):
        word = unknown[1]
        return f"{word}: no such {'option' if word[:1] == '-' else 'task'}.{nearest(word, options)}"
    if option := re.match(r"Flag <Argument: ([\w-]+).* needed value", error):
        return f"--{option[1]}: found no value, expected one."
    if missing := re.search("required positional arguments: '(.*?)'", error):
        return f"found no {missing[1]}, expected one."
    return error


def _refuse(mistake: str) -> NoReturn:
    print(f"error: {mistake}", file=sys.stderr)
    raise SystemExit(2)
