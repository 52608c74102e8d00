"""The verbs of the command line as invoke tasks: each is declared once, where the verb is.

``invoke VERB WORD ...`` hands its words to the command line as they are, so both take the same
ones. invoke alone knows no positional words that may be left out or repeated, and ends a mistake
with exit code 1.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from invoke import Context, Task

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


def hand_over(run: Run, own: Iterable[str], argv: Sequence[str]) -> None:
    """Run the verb with which a command line of invoke begins, and exit; if it begins with one.

    ``own`` are the names of tasks that are no verbs, ``argv`` the words after ``invoke``. An
    unknown name ends in one line with the nearest right one, and exit code 2.
    """
    words = list(argv)
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option.partition("=")[0] in _ASKS:
            return
        if option in _VALUED and words:
            words.pop(0)
    if not words or words[0] in own:
        return
    verbs = command_line()[1].sentences
    if words[0] not in verbs:
        hint = nearest(words[0], [*own, *verbs])
        print(f"error: {words[0]}: no such task.{hint} (`invoke --list`)", file=sys.stderr)
        raise SystemExit(2)
    run(*words)
    raise SystemExit(0)
