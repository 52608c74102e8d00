"""What is recorded of two runs and is not the same: by name, by file, by metric."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import unified_diff
from io import StringIO
from typing import Any

from lockstep.ground import wheels
from lockstep.ground.environment import Facts
from lockstep.records import script, source
from lockstep.records.identity import Packages, Parts
from lockstep.records.receipt import metrics_of
from lockstep.records.run import Run
from lockstep.records.script import Script
from lockstep.records.verify import refuse_altered


@dataclass(frozen=True)
class Difference:
    """Something recorded of two runs that is not the same and can explain other bits."""

    part: str
    name: str
    a: str
    b: str


@dataclass(frozen=True)
class FileDifference:
    """A source file that is not the same; ``added`` and ``removed`` are lines, from A to B.

    ``decides`` says whether either run has it in its identity.
    """

    name: str
    change: str
    added: int
    removed: int
    decides: bool


@dataclass(frozen=True)
class MetricDifference:
    """A metric of the receipts that is not the same, None where a run has it not."""

    name: str
    a: float | None
    b: float | None


@dataclass(frozen=True)
class Differences:
    """All that differs between two runs; ``patch`` leads from the source of A to that of B."""

    names: tuple[str, str]
    facts: list[Difference]
    files: list[FileDifference]
    metrics: list[MetricDifference]
    patch: str

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values, the patch aside."""
        return {key: value for key, value in asdict(self).items() if key != "patch"}


def differences(a: Run, b: Run) -> Differences:
    """Two runs side by side: experiment, source, data, packages, environment, metrics.

    Raises RunError if a file of either was altered.
    """
    for run in (a, b):
        refuse_altered(run)
    if a.script and b.script:
        return _of_scripts(a, b, a.script, b.script)
    # Settings and source are told whole, also what in them decides no bit.
    facts = between("setting", *(flat(run.experiment()) for run in (a, b)))
    facts += [row for row in recorded(a, b) if row.part not in ("setting", "source")]
    facts += between("git", *(_commit(run) for run in (a, b)))
    decisive = {*a.parts["source"], *b.parts["source"]}
    files, patch = _files(a, b, decisive)
    metrics = _metrics(metrics_of(a.receipt), metrics_of(b.receipt))
    return Differences((a.name, b.name), facts, files, metrics, patch)


def _of_scripts(a: Run, b: Run, one: Script, other: Script) -> Differences:
    facts = between_scripts(one.parts, other.parts)
    if one.receipt and other.receipt:
        facts += between_environments(one.receipt["environment"], other.receipt["environment"])
    facts = [row for row in facts if row.part != "source"]  # told line by line
    decisive = {*one.parts["source"], *other.parts["source"]}
    decisive |= {*one.parts["inputs"], *other.parts["inputs"]}
    files, patch = _files(a, b, decisive)
    return Differences((a.name, b.name), facts, files, _metrics(one.metrics, other.metrics), patch)


def _files(a: Run, b: Run, decisive: set[str]) -> tuple[list[FileDifference], str]:
    """The files of two archives that are not the same, and the patch from A's to B's."""
    archives = [source.unpacked(run.folder / "source.zip") for run in (a, b)]
    files, patch = [], []
    for name in sorted(archives[0].keys() | archives[1].keys()):
        before, after = (archive.get(name) for archive in archives)
        if before == after:
            continue
        change = "only in B" if before is None else "only in A" if after is None else "changed"
        lines = list(_unified(name, before, after))
        added, removed = (sum(line[0] == sign for line in lines[2:]) for sign in "+-")
        files.append(FileDifference(name, change, added, removed, name in decisive))
        patch += lines
    return files, "".join(patch)


def _metrics(
    mine: Mapping[str, float | None], other: Mapping[str, float | None]
) -> list[MetricDifference]:
    return [
        MetricDifference(name, mine.get(name), other.get(name))
        for name in dict.fromkeys([*mine, *other])
        if mine.get(name) != other.get(name)
    ]


def _commit(run: Run) -> dict[str, str]:
    """The commit that a finished run was trained at, as far as it is known."""
    git = receipt["environment"]["git"] if (receipt := run.receipt) else None
    if git is None or not git["commit"]:
        return {}
    return {"commit": f"{git['commit'][:12]}{' with changes' if git['dirty'] else ''}"}


def _unified(name: str, a: bytes | None, b: bytes | None) -> Iterator[str]:
    """The lines of a unified diff of two files, None for one that is not there."""
    before, after = (_lines(content or b"") for content in (a, b))
    paths = ("/dev/null" if a is None else f"a/{name}", "/dev/null" if b is None else f"b/{name}")
    for line in unified_diff(before, after, *paths):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _lines(content: bytes) -> list[str]:
    # Not splitlines(), which takes a form feed for an end too.
    return list(StringIO(content.decode(errors="replace"), newline="\n"))


def recorded(a: Run, b: Run) -> list[Difference]:
    """All that is recorded of both runs, is not the same and can explain other bits."""
    receipts = a.receipt, b.receipt
    found = between_parts(a.parts, b.parts)
    if receipts[0] and receipts[1]:
        found += between_environments(receipts[0]["environment"], receipts[1]["environment"])
        fitted = [json.loads((run.folder / "preprocess.json").read_bytes()) for run in (a, b)]
        for content in fitted:  # these are settings, told before
            content.pop("model", None), content.pop("config", None)
        found += between("preprocessing", *fitted)
    return found


def summary(a: Parts, b: Parts, most: int = 3) -> str:
    """In a few words what parts two identities: ``another source (a.py, b.py and 2 more)``."""
    if a.get("schema") != b.get("schema"):
        return "an identity of another version of Lockstep, which `invoke reproduce` can train"
    names: dict[str, list[str]] = {}
    for row in between_parts(a, b):
        shown = f"{row.name} {row.a}" if row.part in ("setting", "package") else row.name
        names.setdefault(row.part, []).append(shown)
    told = []
    for part, found in names.items():
        more = f" and {len(found) - most} more" if len(found) > most else ""
        told.append(f"another {part} ({', '.join(found[:most])}{more})")
    return ", ".join(told) or "the same identity"


def between_parts(a: Parts, b: Parts) -> list[Difference]:
    """The differences between two identities by name, in the parts that both have."""
    found = between("setting", *(flat(parts["experiment"]) for parts in (a, b)))
    found += between("source", *(_short(parts["source"]) for parts in (a, b)))
    found += between("data", *(_short({"digest": parts["data"]}) for parts in (a, b)))
    found += between_packages(a["packages"], b["packages"])
    if "python" in a and "python" in b:
        found += between("python", {"version": a["python"]}, {"version": b["python"]})
    return found + between("profile", a["profile"], b["profile"])


def between_scripts(a: script.Parts, b: script.Parts) -> list[Difference]:
    """The differences between two identities of scripts, by name."""
    commands = [
        {**parts["command"], "words": " ".join(parts["command"]["words"])} for parts in (a, b)
    ]
    found = between("command", *commands)
    found += between("source", *(_short(parts["source"]) for parts in (a, b)))
    found += between("input", *(_short(parts["inputs"]) for parts in (a, b)))
    found += between_packages(a["packages"], b["packages"])
    found += between("python", {"version": a["python"]}, {"version": b["python"]})
    return found + between("profile", a["profile"], b["profile"])


def between_packages(a: Packages, b: Packages) -> list[Difference]:
    """The differences between the packages of two identities."""
    return between("package", _versions(a, b), _versions(b, a))


def between_environments(a: Facts, b: Facts) -> list[Difference]:
    """The differences between what two receipts say of machine and interpreter."""
    # Commit and engine explain nothing that the source files don't, the packages are parts already.
    apart = {"git", "packages", "drift", "lockstep"}
    plain = []
    for facts in (a, b):
        cpu = {"cpu": facts["cpu"]["model"], "vector units": " ".join(facts["cpu"]["features"])}
        plain.append({key: fact for key, fact in facts.items() if key not in apart} | cpu)
    return between("environment", *plain)


def between(part: str, a: Mapping[str, object], b: Mapping[str, object]) -> list[Difference]:
    """The values by name that are not the same, or that only one of both has."""
    return [
        Difference(part, name, _shown(a, name), _shown(b, name))
        for name in dict.fromkeys([*a, *b])
        if a.get(name, _NONE) != b.get(name, _NONE)
    ]


_NONE = object()


def _shown(values: Mapping[str, object], name: str) -> str:
    text = str(values[name]) if name in values else "not there"
    return text if len(text) <= 80 else text[:77] + "..."


def flat(sections: Mapping[str, object]) -> dict[str, Any]:
    """Settings by dotted name, as ``training.lr``, of the sections of an experiment."""
    found: dict[str, Any] = {}
    for section, value in sections.items():
        if isinstance(value, dict):
            found |= {f"{section}.{name}": item for name, item in value.items()}
        else:
            found[section] = value
    return found


def _short(digests: dict[str, str]) -> dict[str, str]:
    return {name: f"sha256 {digest[:12]}" for name, digest in digests.items()}


def _versions(mine: Packages, other: Packages) -> dict[str, str]:
    """Name to version, and to the wheel where the version alone is the same."""
    return {
        name: (
            f"{version}, {_origin(state, other[name][1])}"
            if name in other and other[name][0] == version
            else version
        )
        for name, (version, state) in mine.items()
    }


def _origin(state: str, other: str) -> str:
    """What an identity says of a package's files, as far as the other's says the same thing.

    A digest alone is of the lock's hashes: it says that the package was as locked, not which of the
    files it was.
    """
    alone = re.compile("[0-9a-f]{64}")
    if alone.fullmatch(state) and alone.fullmatch(other):
        return f"locked as {state[:12]}"
    if alone.fullmatch(state) or (alone.fullmatch(other) and state.startswith(wheels.WHEEL)):
        return "as locked"
    return re.sub("(?<=[0-9a-f]{12})[0-9a-f]{52}", "", state)
