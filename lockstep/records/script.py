"""The run of a script: what its folder holds, in place of a trained model."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from lockstep.ground import environment
from lockstep.ground.digests import digest_of
from lockstep.ground.environment import Facts
from lockstep.ground.errors import RunError
from lockstep.ground.names import unsafe
from lockstep.records import identity, source
from lockstep.records.identity import Packages, Profile
from lockstep.records.reading import Altered, json_object, refuse_newer, shaped
from lockstep.records.receipt import NAME, Level, misfit_of_seal

SCHEMA = 1
SCRIPT = "script.json"  # only the run of a script has it
MODEL = "script"  # what `invoke runs` shows as the model of such a run
OUTPUTS, LOG = "outputs", "log.txt"


class Command(TypedDict):
    """What was run: Python's words, in a folder of the repository; all of it decides bits."""

    words: list[str]
    folder: str
    seed: int
    threads: int


class Named(TypedDict):
    """The content of ``script.json``.

    ``repository`` is where the inputs were, ``folders`` in it were there before the outputs, and
    ``paths`` are those of PYTHONPATH.
    """

    name: str
    command: Command
    repository: str
    folders: list[str]
    paths: list[str]


class Parts(TypedDict):
    """The content of ``parts.json``: ``source`` and ``inputs`` are path to digest."""

    schema: int
    command: Command
    source: dict[str, str]
    inputs: dict[str, str]
    packages: Packages
    python: str
    profile: Profile


class Identity(TypedDict):
    """The content of ``identity.json``; ``digest`` is over the digests of all parts."""

    digest: str
    schema: str
    command: str
    source: str
    inputs: str
    packages: str
    python: str
    profile: str


class Output(TypedDict):
    """A file that a program wrote; ``kept`` says whether the run's folder has a copy."""

    sha256: str
    bytes: int
    kept: bool


class Results(TypedDict):
    """What came of a script: its outputs by path, and the numbers of its ``metrics.json``."""

    outputs: dict[str, Output]
    metrics: dict[str, float]
    source_sha256: str
    log_sha256: str


class Timing(TypedDict):
    """When a program ended (UTC), and how long it took, in seconds."""

    finished: str
    seconds: float


class Receipt(TypedDict):
    """The content of a script's ``receipt.json``; ``digest`` is over all the rest of it."""

    schema: int
    run: str
    identity: Identity
    environment: Facts
    results: Results
    timing: Timing
    level: Level
    digest: str


@dataclass(frozen=True)
class Script:
    """The folder of a script's run, read on demand.

    Whatever is read raises RunError, in one line, for a file that is missing or was altered, and
    NewerSchema for one that a newer Lockstep wrote.
    """

    folder: Path

    @property
    def named(self) -> Named:
        """Its name, its command, and where it ran."""
        named = shaped(path := self.folder / SCRIPT, _content(path), Named)
        for folder in (named["command"]["folder"], *named["folders"]):
            if folder not in ("", ".") and (why := unsafe(folder)):
                raise Altered(path, f"folder {folder!r:.80} {why}")
        if unsafe(named["name"]) or "/" in named["name"]:
            raise Altered(path, f"name: found {named['name']!r:.80}, expected a name")
        return named

    @property
    def parts(self) -> Parts:
        """What stands behind each digest of the identity."""
        content = _content(path := self.folder / "parts.json")
        refuse_newer(path, content.get("schema"), SCHEMA)
        return shaped(path, content, Parts)

    @property
    def identity(self) -> Identity:
        """The digests of what decides the outputs' bits."""
        return identity.checked(self.folder / "identity.json", Identity)

    @property
    def receipt(self) -> Receipt | None:
        """The receipt, or None of a program that failed."""
        content = json_object(path := self.folder / NAME)
        if content is None:
            return None
        refuse_newer(path, content.get("schema"), SCHEMA)
        receipt = shaped(path, content, Receipt)
        if problem := misfit_of_seal(content):
            raise Altered(path, problem)
        if receipt["identity"] != self.identity:
            raise Altered(path, "it is of another identity than identity.json")
        return receipt

    def finished_receipt(self) -> Receipt:
        """The receipt of a program that ended well. Raises RunError for any other."""
        if (receipt := self.receipt) is None:
            raise RunError(f"{self.folder.name}: failed, expected a finished run; run it again.")
        return receipt

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the receipt, by name; none of a program that failed."""
        receipt = self.receipt
        return receipt["results"]["metrics"] if receipt else {}

    def output(self, name: str) -> Path:
        """Where the copy of an output is."""
        return self.folder / OUTPUTS / name.removeprefix("/")

    def verify(self) -> list[str]:
        """Return what was altered in the run's files, a line each that begins with a file's name.

        Raises NewerSchema for a run of a newer Lockstep.
        """
        parts, sealed = self.parts, self.identity
        digests = dict(identity.identity(parts))
        problems = [
            f"parts.json: {name} is not what identity.json names"
            for name, digest in sealed.items()
            if name != "digest" and digests.get(name) != digest
        ]
        if self.named["command"] != parts["command"]:
            problems.append(f"{SCRIPT}: its command is not that of the identity")
        files = source.unpacked(self.folder / "source.zip")
        if parts["python"] == environment.language():
            found = source.digests({name: files[name] for name in parts["source"] if name in files})
            problems += _misfits("source.zip", parts["source"], found)
        kept = {name: digest_of(files[name]) for name in parts["inputs"] if name in files}
        problems += _misfits("source.zip", {name: parts["inputs"][name] for name in kept}, kept)
        if receipt := self.receipt:
            problems += self._altered_results(receipt["results"])
        return problems

    def _altered_results(self, results: Results) -> list[str]:
        expected = {"source.zip": results["source_sha256"], LOG: results["log_sha256"]}
        expected |= {
            f"{OUTPUTS}/{name}": output["sha256"]
            for name, output in results["outputs"].items()
            if output["kept"]
        }
        problems = []
        for name, digest in expected.items():
            path = self.folder / name
            if not path.is_file():
                problems.append(f"{name}: is missing")
            elif (found := digest_of(path)) != digest:
                problems.append(f"{name}: sha256 {found[:12]}, the receipt names {digest[:12]}")
        return problems


def _misfits(archive: str, expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    return [
        f"{archive}: {name} is not the file that ran"
        for name, digest in expected.items()
        if found.get(name) != digest
    ]


def _content(path: Path) -> dict[str, Any]:
    if (content := json_object(path)) is None:
        raise Altered(path, "is missing")
    return content


def options(command: Command) -> dict[str, Any]:
    """Return the options of a command line by name, numbers as such: ``--lr 0.1`` and ``--lr=0.1``.

    An option without a value is true.
    """
    found: dict[str, Any] = {}
    words = command["words"]
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name == "--":
            continue
        alone = not equals and following.startswith("--")
        found[name[2:]] = True if alone else _number(value if equals else following)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def metrics_in(content: bytes) -> dict[str, float]:
    """Return the finite numbers of a ``metrics.json``, those in objects as ``test.accuracy``.

    What is no such file has none.
    """
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return dict(_numbers(tree, ())) if isinstance(tree, dict) else {}


def _numbers(tree: Mapping[str, Any], above: tuple[str, ...]) -> Iterable[tuple[str, float]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _numbers(value, (*above, name))
        elif (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ):
            yield ".".join((*above, name)), value
