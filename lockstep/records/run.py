"""Runs: their folders, read on demand, and finding one by its name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from lockstep.ground.errors import RunError, nearest
from lockstep.ground.files import is_held
from lockstep.ground.watch import Row
from lockstep.records import identity, receipt
from lockstep.records.identity import Deciding, Identity, Parts
from lockstep.records.reading import Altered, NewerSchema, shaped
from lockstep.records.receipt import Receipt


class Experiment(Deciding):
    """The content of ``experiment.yaml``: all settings, also those that decide no bit.

    ``accept`` are the budgets, measure to bound; ``package`` has the model, in runs of the first
    edition it is ``project``.
    """

    recipe: str
    accept: NotRequired[dict[str, str]]
    package: NotRequired[str]


# The line of `invoke runs` for a run.
Summary = TypedDict(
    "Summary",
    {
        "run": str,
        "state": str,
        "model": str,
        "recipe": str,
        "seed": int | None,
        "test accuracy": float | None,
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
    def model(self) -> str:
        """The model, as the name says it."""
        return self.name.partition("-")[0]

    @property
    def receipt(self) -> Receipt | None:
        """The receipt, or None while the run is not finished."""
        return receipt.read(self.folder / receipt.NAME)

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
        return identity.read(self.folder / "identity.json")

    @property
    def parts(self) -> Parts:
        """What stands behind each digest of the identity."""
        return identity.read_parts(self.folder / "parts.json")

    def experiment(self) -> Experiment:
        """The content of ``experiment.yaml``."""
        import yaml

        path = self.folder / "experiment.yaml"
        # What yaml.safe_load does, by libyaml: ten times as fast, for conditions on many runs.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            content = loader(path.read_bytes()).get_single_data()
        except FileNotFoundError as error:
            raise Altered(path, "is missing") from error
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}; make it readable.") from error
        except (yaml.YAMLError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise Altered(path, f"not readable as YAML ({reason})") from error
        return shaped(path, content, Experiment)

    @property
    def state(self) -> str:
        """``finished``, ``running``, or ``stopped at step N``."""
        if (self.folder / receipt.NAME).exists():
            return "finished"
        if is_held(self.folder):
            return "running"
        steps = [int(p.name) for p in self.folder.glob("checkpoints/*") if p.name.isdigit()]
        return f"stopped at step {max(steps, default=0)}"

    def summary(self) -> Summary:
        """The line that `invoke runs` shows of it.

        Its state is ``altered`` if it cannot be read, ``newer`` if a newer Lockstep made it.
        """
        rest = self.name.partition("-")[2]
        recipe, seed, *_ = (*rest.rsplit("-", 2), "", "")  # a copy may have any name
        line: Summary = {
            "run": self.name,
            "state": "altered",
            "model": self.model,
            "recipe": recipe,
            "seed": int(seed.lstrip("s")) if seed.lstrip("s").isdigit() else None,
            "test accuracy": None,
            "identity": "",
            "from": None,
        }
        try:
            receipt = self.receipt
            identity = receipt["identity"] if receipt else self.identity
            line["state"] = "finished" if receipt else self.state
        except NewerSchema:
            line["state"] = "newer"
        except RunError:
            pass
        else:
            line["identity"] = identity["digest"][:12]
            if receipt:
                test = receipt["results"]["metrics"]["test"]
                line["test accuracy"] = round(test["accuracy"], 4)
                line["from"] = "notebook" if receipt["environment"]["notebook"] else None
        return line

    def metrics(self) -> list[Row]:
        """The rows of ``metrics.jsonl``, one for each epoch."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        rows = []
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise Altered(path, f"line {number}: not readable as JSON ({error})") from error
            rows.append(shaped(path, content, Row))
        return rows


def runs(folder: Path) -> list[Run]:
    """All runs in a folder, newest first."""
    found = [path.parent for path in folder.glob("*/identity.json") if path.parent.name[0] != "."]
    return [Run(path) for path in sorted(found, key=lambda p: (-p.stat().st_mtime_ns, p.name))]


def find_run(given: str, folder: Path) -> Run:
    """The run that is meant by a path, a name, or the beginning or identity of exactly one name.

    Raises RunError otherwise, with the nearest name.
    """
    if (path := Path(given)).is_dir() and (path / "identity.json").exists():
        return Run(path.resolve())
    known = {run.name: run for run in runs(folder)}
    if given in known:
        return known[given]
    fitting = [run for name, run in known.items() if name.startswith(given) or name.endswith(given)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(run.name for run in fitting[:4])
        raise RunError(f"{given}: found {len(fitting)} such runs ({names}), wanted one; say more.")
    raise RunError(
        f"{given}: no such run in {folder}.{nearest(given, known)} (`invoke runs` lists all)"
    )
