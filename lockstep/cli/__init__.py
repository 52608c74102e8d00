"""The verbs: ``python -m lockstep train digits/base --seed 42``."""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from lockstep.cli import (
    answering,
    containers,
    data,
    job,
    keeping,
    lifecycle,
    publishing,
    runs,
    sagemaker,
    schema,
    script,
    serving,
    tracking,
    training,
    tuning,
    workspace,
)
from lockstep.cli.verbs import Verbs, attached, elsewhere, name_recipe
from lockstep.ground import profiles
from lockstep.ground.console import show
from lockstep.ground.errors import (
    EnvironmentMismatch,
    Interrupted,
    LockstepError,
    WorkerLost,
    WriteError,
    nearest,
)

# Verbs that compute with a model's code.
_COMPUTE = ("train", "tune", "evaluate", "predict", "reproduce", "accept", "bundle", "publish")
_LOST = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 1 for "no", 2 for a mistake, 128 + signal when stopped."""
    parser, verbs = command_line()
    words = sys.argv[1:] if words is None else words
    if words and words[0][:1] != "-" and words[0] not in verbs.names:
        parser.error(
            f"{words[0]}: no such verb.{nearest(words[0], verbs.names)} (there are "
            f"{', '.join(verbs.names)})"
        )
    # argparse takes positional words only in one piece; overrides may also follow the options.
    options, more = parser.parse_known_args(attached(words))
    if more and ("overrides" not in options or any(word.startswith("-") for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        options.overrides += more
    options.words = words
    try:
        if "overrides" in options:
            name_recipe(options)
        return int(options.verb(options) or 0)
    except WriteError as error:
        return _report(elsewhere(error, options))
    except (LockstepError, Interrupted, WorkerLost) as end:
        return _report(end)
    except ModuleNotFoundError as error:  # of a package that only some verbs need
        package = (error.name or "lockstep").partition(".")[0]
        if package == "lockstep":
            raise
        return _report(
            EnvironmentMismatch(
                f"{package}: not installed; ./workbench installs the locked packages, elsewhere "
                '`pip install "lockstep[all]"` does.'
            )
        )
    except KeyboardInterrupt:
        show("interrupted; run the same command to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 141
    except (
        Exception
    ):  # of the model's code, perhaps: all workers may raise it, one of them is heard
        from lockstep.training import launch

        if not launch.is_watched():
            raise
        return launch.note_bug(traceback.format_exc())


def reach_this_machine() -> None:
    """Let no proxy stand between the processes of this machine, as a tracker and its page."""
    if any(name.lower().endswith("_proxy") for name in os.environ):
        listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        names = [name for name in (listed, "localhost", "127.0.0.1", "::1") if name]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


def fix_hashes(words: Sequence[str]) -> None:
    """Start Python again with fixed hashes of texts, for a verb that computes with a model.

    Else the order of a set, or what hash() returns, would differ in each process. Not for serve,
    whose callers could send texts that collide: there answers are compared with those of training.
    """
    ignored = os.environ.get("PYTHONHASHSEED") == "0"  # of a Python that takes none, as with -I
    if words[:1] and words[0] in _COMPUTE and sys.flags.hash_randomization and not ignored:
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONHASHSEED": "0"})


def entry() -> NoReturn:
    """The process ``python -m lockstep`` or ``lockstep``, from its words to its exit code."""
    fix_hashes(sys.argv[1:])
    # Before a model's code is read, which may load NumPy or torch; a recipe may ask for another.
    profiles.prefer("portable")
    reach_this_machine()
    # Output is UTF-8 also where the locale is C: names and labels may have accents.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    code = main()
    if "RANK" in os.environ:  # gloo's threads have been seen to abort a process that ends slowly
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _report(end: Exception) -> int:
    """Report what ended a verb, to people or to the parent of this worker; return the exit code."""
    from lockstep.training import launch

    if launch.is_watched():  # the loss of another is told by who started both
        return _LOST if isinstance(end, WorkerLost) else launch.note(end)
    if isinstance(end, Interrupted):
        show(end.message(), file=sys.stderr)
        return 128 + end.signal
    if isinstance(end, WorkerLost):
        show(f"{end}; start it again to resume from the last checkpoint", file=sys.stderr)
        return _LOST
    show(f"error: {end}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors in one line like all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (`python -m {self.prog} --help` lists the options)\n")


def command_line() -> tuple[argparse.ArgumentParser, Verbs]:
    """Return the parser of all verbs, and the verbs."""
    parser = _Parser(
        prog="lockstep", description="Lockstep: training runs with the same bits, and a receipt."
    )
    verbs = Verbs(parser)
    parts = (
        training,
        answering,
        script,
        tuning,
        runs,
        keeping,
        tracking,
        data,
        serving,
        publishing,
        sagemaker,
    )
    for part in (*parts, job, workspace, schema, lifecycle, containers):
        part.add_to(verbs)
    return parser, verbs
