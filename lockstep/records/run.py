"""Runs: their folders, read on demand, and finding one by its name."""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from lockstep.ground import console
from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.errors import RunError, nearest, printable
from lockstep.ground.files import is_held
from lockstep.ground.names import unsafe
from lockstep.ground.watch import Row
from lockstep.records import identity, receipt
from lockstep.records.identity import Deciding, Identity, Parts
from lockstep.records.reading import Altered, NewerSchema, content_of, json_object, shaped
from lockstep.records.receipt import Receipt, metrics_of, monitor_of
from lockstep.records.script import MODEL, OUTPUTS, SCRIPT, Script

FAILURE = "failure.json"  # in the folder of a run whose training ended with an error
UNTRIED = "untried"  # in the folder of a run until its rehearsal has passed
_CHECKPOINT = re.compile("[0-9]{8,}")
_MOST_YAML = 1 << 18  # bytes
_DEEP = 1000  # brackets
_RECIPE = re.compile(rb"^recipe: .*$", re.MULTILINE)


class Experiment(Deciding):
    """The content of ``experiment.yaml``: all settings, also those that decide no bit.

    ``accept`` are the budgets, measure to bound; ``package`` has the model, in runs of the first
    edition it is ``project``.
    """

    recipe: str
    accept: NotRequired[dict[str, str]]
    package: NotRequired[str]


# The line of `invoke runs` for a run: ``test`` is the value of ``metric``, the one that it went by.
Summary = TypedDict(
    "Summary",
    {
        "run": str,
        "state": str,
        "model": str,
        "recipe": str,
        "seed": int | None,
        "metric": str | None,
        "test": float | None,
        "identity": str,
        "from": str | None,
    },
)


@dataclass(frozen=True)
class Run:
    """A run's folder, read on demand.

    Whatever is read raises RunError, in one line, for a file that is missing or was altered, and
    NewerSchema for one that a newer Lockstep wrote.
    """

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def script(self) -> Script | None:
        """The run as that of a script, None if it trains a model."""
        return Script(self.folder) if (self.folder / SCRIPT).exists() else None

    def _refuse_script(self) -> None:
        if self.script:
            raise RunError(
                f"{self.name}: is the run of a script, expected that of a model; what the script "
                f"wrote is in {self.folder / OUTPUTS}."
            )

    @property
    def receipt(self) -> Receipt | None:
        """The receipt, or None while the run is not finished.

        Raises RunError if its digest does not fit, or if it is the receipt of another identity.
        """
        self._refuse_script()
        found = receipt.read(path := self.folder / receipt.NAME)
        if found and found["identity"] != self.identity:
            raise Altered(path, "it is of another identity than identity.json")
        return found

    def finished_receipt(self) -> Receipt:
        """The receipt of a finished run. Raises RunError for any other run."""
        if (found := self.receipt) is None:
            raise RunError(
                f"{self.folder}: is {self.state}, expected a finished run; run its train command "
                "to the end."
            )
        return found

    @property
    def identity(self) -> Identity:
        """The digests of what decides its bits."""
        self._refuse_script()
        return identity.read(self.folder / "identity.json")

    @property
    def parts(self) -> Parts:
        """What stands behind each digest of the identity."""
        self._refuse_script()
        return identity.read_parts(self.folder / "parts.json")

    def experiment(self) -> Experiment:
        """The content of ``experiment.yaml``."""
        self._refuse_script()
        path = self.folder / "experiment.yaml"
        experiment = shaped(path, _yaml(path, _yaml_bytes(path)), Experiment)
        package = experiment.get("package", "project")
        names = {"name": experiment["name"], "recipe": experiment["recipe"]}
        for key, name in (names | {"package": package.replace(".", "/")}).items():
            if unsafe(name) or ("/" in name and key != "package"):
                raise Altered(path, f"{key}: found {name!r:.80}, expected the name of one")
        return experiment

    @property
    def settings(self) -> Deciding:
        """The settings that decide bits, which are those of the identity.

        Raises RunError if they are not, NewerSchema as ``parts`` does.
        """
        settings, path = self.parts["experiment"], self.folder / "parts.json"
        try:
            same = digest_of(canonical_json(settings)) == self.identity["experiment"]
        except ValueError:
            same = False
        if not same:
            raise Altered(path, "experiment is not what identity.json names")
        return settings

    @property
    def recipe(self) -> str:
        """The name of its recipe, which is in no identity."""
        path = self.folder / "experiment.yaml"
        content = _yaml_bytes(path)
        if line := _RECIPE.search(content):  # a hundred times as fast as all of the file
            content = line[0]
        named = _yaml(path, content)
        return shaped(path, named, _Named)["recipe"]

    @property
    def failure(self) -> str:
        """Why its training ended, if the last one ended with an error; else empty."""
        try:
            return str((json_object(self.folder / FAILURE) or {}).get("reason", ""))
        except RunError:
            return ""

    @property
    def last_step(self) -> int:
        """The step of its newest checkpoint; 0 if it has none."""
        names = [path.name for path in self.folder.glob("checkpoints/*")]
        return max((int(name) for name in names if _CHECKPOINT.fullmatch(name)), default=0)

    @property
    def state(self) -> str:
        """``finished``, ``running``, ``stopped at step N``, or ``failed at step N: REASON``.

        It is ``altered`` if the folder cannot be read.
        """
        try:
            if (self.folder / receipt.NAME).exists():
                return "finished"
            if is_held(self.folder):
                return "running"
            step = self.last_step
        except OSError:
            return "altered"
        if reason := self.failure:
            return f"failed: {reason}" if self.script else f"failed at step {step}: {reason}"
        return f"stopped at step {step}"

    def summary(self) -> Summary:
        """The line that `invoke runs` shows of it, by its files and not by its folder's name.

        Its state is ``altered`` if it cannot be read, ``newer`` if a newer Lockstep made it.
        """
        line: Summary = {
            "run": self.name,
            "state": "altered",
            "model": "",
            "recipe": "",
            "seed": None,
            "metric": None,
            "test": None,
            "identity": "",
            "from": None,
        }
        try:
            if script := self.script:
                return line | _summary(script, self.state)
            settings = self.settings
            line |= {"model": settings["name"], "seed": settings["seed"], "recipe": self.recipe}
            receipt = self.receipt
            identity = receipt["identity"] if receipt else self.identity
        except NewerSchema:
            line["state"] = "newer"
        except RunError:
            pass
        else:
            line["state"] = "finished" if receipt else self.state
            line["identity"] = identity["digest"][:12]
            if receipt:
                line["metric"] = name = monitor_of(receipt, settings)
                value = metrics_of(receipt).get(f"test.{name}")
                line["test"] = None if value is None else float(console.number(value))
                line["from"] = "notebook" if receipt["environment"]["notebook"] else None
        return line

    def metrics(self) -> list[Row]:
        """The rows of ``metrics.jsonl``, one for each epoch."""
        path = self.folder / "metrics.jsonl"
        try:
            lines = content_of(path).splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise Altered(path, f"line {number}: not readable as JSON ({error})") from error
            rows.append(shaped(path, content, Row))
        return rows


class _Named(TypedDict):
    recipe: str


def _summary(script: Script, state: str) -> Summary:
    """The columns of `invoke runs` for the run of a script: its name stands for the recipe."""
    named, metrics = script.named, script.metrics
    metric = next((name for name in metrics if name.startswith("test.")), None)
    return {
        "run": script.folder.name,
        "state": state,
        "model": MODEL,
        "recipe": named["name"],
        "seed": named["command"]["seed"],
        "metric": metric and metric.removeprefix("test."),
        "test": float(console.number(metrics[metric])) if metric else None,
        "identity": script.identity["digest"][:12],
        "from": None,
    }


def _yaml_bytes(path: Path) -> bytes:
    try:
        return content_of(path, _MOST_YAML)
    except FileNotFoundError as error:
        raise Altered(path, "is missing") from error


def _is_too_deep(content: bytes) -> bool:
    """Return whether YAML may be nested so deeply that libyaml's recursion ends the process.

    Lists and mappings open by brackets or, several in a line, by dashes and question marks; levels
    by indentation alone take more bytes than a file may have.
    """
    brackets = content.count(b"[") + content.count(b"{")
    lines = content.splitlines()
    return brackets > _DEEP or any(line.count(b"- ") + line.count(b"? ") > _DEEP for line in lines)


def _yaml(path: Path, content: bytes) -> object:
    import yaml

    from lockstep.ground import yaml_text

    if _is_too_deep(content):
        raise Altered(path, "not readable as YAML (nested too deeply)")
    # What yaml.safe_load does, by libyaml: ten times as fast, for conditions on many runs.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml_text.load(content, loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise Altered(path, f"not readable as YAML ({reason})") from error


def runs(folder: Path) -> list[Run]:
    """All runs in a folder, newest first; what stands beside them and is no run is left out.

    So is the folder of a training that was killed before its rehearsal had passed.
    Raises RunError if the folder itself cannot be read.
    """
    try:
        paths = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(f"{folder}: {error.strerror}; make it readable.") from error
    times = {}
    for path in paths:
        try:
            time = path.stat().st_mtime_ns
        except OSError:
            continue  # a link that leads nowhere, or was removed just now
        with contextlib.suppress(PermissionError):  # of a folder; such a run is listed as altered
            if path.name[0] == "." or not is_there(path / "identity.json"):
                continue
            if is_there(path / UNTRIED) and not is_held(path):
                continue
        times[path] = time
    return [Run(path) for path in sorted(times, key=lambda path: (-times[path], path.name))]


def is_there(path: Path) -> bool:
    """Return whether anything that can be reached is at a path. Raises PermissionError."""
    try:
        path.stat()
        return True
    except PermissionError:
        raise
    except (OSError, ValueError):  # also a name that is too long, for which exists() raises
        return False


def refuse_nameless(given: str) -> None:
    """Raise RunError for what names no run, such as the value of a variable that is not set."""
    if not any(letter.isalnum() for letter in given):
        raise RunError(
            f"{printable(given)!r}: names no run, expected a name, its beginning or a path "
            "(`invoke runs` lists all)"
        )


def find_run(given: str, folder: Path, say: Callable[[str], None] | None = None) -> Run:
    """The run that is meant by a path, a name, or the beginning or identity of exactly one name.

    Of several runs of the recipe and seed that are named, as ``digits-base-s42``, it is the one
    that was finished last, if there is somebody to ``say`` so to. Raises RunError otherwise, with
    the nearest name.
    """
    refuse_nameless(given)
    with contextlib.suppress(PermissionError):
        if is_there(path := Path(given) / "identity.json"):
            return Run(path.parent.resolve())
    known = {run.name: run for run in runs(folder)}
    if given in known:
        return known[given]
    fitting = [run for name, run in known.items() if _names(given, name)]
    if len(fitting) == 1:
        return fitting[0]
    if say and (newest := _newest_finished(given, fitting)):
        say(f"{given}: {len(fitting)} such runs, taking {newest.name}, which was finished last")
        return newest
    if fitting:
        names = ", ".join(printable(run.name) for run in fitting[:4])
        raise RunError(
            f"{given}: found {len(fitting)} such runs ({names}), expected one; say more."
        )
    raise RunError(
        f"{printable(given)}: no such run in {folder}.{nearest(given, known)} "
        "(`invoke runs` lists all)"
    )


def _names(given: str, name: str) -> bool:
    """Whether a run is named by the beginning of its name, or by the end of its identity."""
    return name.startswith(given) or (len(given) >= 4 and name.endswith(given))


def _newest_finished(given: str, fitting: list[Run]) -> Run | None:
    """The run that was finished last, if all of them are of the recipe and seed that is given."""
    if any(run.name.rpartition("-")[0] != given for run in fitting):
        return None
    finished = {}
    for run in fitting:
        try:
            if found := run.script.receipt if run.script else run.receipt:
                finished[run] = found["timing"]["finished"]
        except RunError:
            continue  # altered: `invoke runs` says so
    return max(finished, key=lambda run: finished[run], default=None)
