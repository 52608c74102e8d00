"""An endpoint's stack: its template, and the parameters for a bundle and an image."""

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lockstep.ground.digests import digest_of
from lockstep.ground.errors import DeploymentError, SettingError, StorageError, nearest
from lockstep.ground.storage import Storage
from lockstep.ground.watch import Watch
from lockstep.publishing.bundle import NAME, Bundle
from lockstep.publishing.weights import moving

_TEMPLATE = Path(__file__).with_name("stack.yaml")
# What the bundle and the image decide, and no user.
_OURS = ("Image", "Repository", "ModelBucket", "ModelKey", "BundleDigest", "ManifestDigest",
         "Signed", "Run", "Version")  # fmt: skip


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML with the short forms of CloudFormation, each read as what it is short for."""


def _long_form(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        value = value.split(".", 1) if name == "GetAtt" else value
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _long_form)


def template() -> str:
    """Return the template as CloudFormation expects it."""
    try:
        return _TEMPLATE.read_text()
    except OSError as error:
        raise DeploymentError(f"{_TEMPLATE}: {error.strerror}; install lockstep again.") from error


def read(text: str) -> dict[str, Any]:
    """A template with all short forms written out: ``!Ref A`` as ``{"Ref": "A"}``."""
    found: dict[str, Any] = _Loader(text).get_single_data()
    return found


def settings(words: Iterable[str]) -> dict[str, str]:
    """What the user sets, given as PARAMETER=VALUE.

    Raises SettingError with every mistake, one line each.
    """
    declared = read(template())["Parameters"]
    free = [name for name in declared if name not in _OURS]
    found, problems = {}, []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            problems.append(f"--set {word}: found no '=', expected as InstanceType=ml.m5.large")
        elif name in _OURS:
            problems.append(f"--set {name}: follows from the run and the image, set those")
        elif name not in free:
            known = f"{nearest(name, free)} (there are {', '.join(free)})"
            problems.append(f"--set {name}: is no parameter of the stack.{known}")
        elif expected := _refused(declared[name], value):
            problems.append(f"--set {name}: found {value!r}, expected {expected}")
        else:
            found[name] = value
    if problems:
        raise SettingError("\n".join(problems))
    return found


def _refused(declared: Mapping[str, Any], value: str) -> str:
    """Return what a parameter expects, if a value differs; CloudFormation would say it late."""
    if allowed := declared.get("AllowedValues"):
        return "" if value in map(str, allowed) else f"one of {', '.join(map(str, allowed))}"
    if declared["Type"] == "Number":
        least, most = declared.get("MinValue", 0), declared.get("MaxValue")
        told = f"a whole number from {least}" + (f" to {most}" if most is not None else "")
        fits = value.isdecimal() and value.isascii() and least <= int(value)
        return "" if fits and (most is None or int(value) <= most) else told
    pattern = declared.get("AllowedPattern", ".*")
    return "" if re.fullmatch(pattern, value) else f"what fits {pattern}"


def _refuse_together(told: Mapping[str, str], declared: Mapping[str, Any]) -> None:
    """Raise SettingError for values that do not fit, before CloudFormation does."""
    problems = [
        f"{name}: found {value!r}, expected {expected}"
        for name, value in told.items()
        if (expected := _refused(declared[name], value))
    ]
    if not problems:
        least, most = int(told["MinInstances"]), int(told["MaxInstances"])
        if 0 < most < least:
            problems.append(f"MaxInstances: found {most}, expected MinInstances ({least}) or more")
        fewest = "MinInstances" if most else "InstanceCount"
        if told["Traffic"] == "CANARY" and int(told[fewest]) < 2:
            problems.append(
                f"Traffic: found CANARY with {fewest}={told[fewest]}, expected 2 machines or more, "
                "of which one goes first"
            )
    if problems:
        raise SettingError("\n".join(f"{problem}; see --set." for problem in problems))


@dataclass(frozen=True)
class Plan:
    """The stack's parameters, and whether the bundle must be uploaded first."""

    parameters: dict[str, str]
    uploads: bool

    @property
    def key(self) -> str:
        """Where the bundle lies in the bucket, or will."""
        return self.parameters["ModelKey"]


def plan(
    made: Bundle,
    storage: Storage,
    place: Mapping[str, str],
    chosen: Mapping[str, str],
    before: Mapping[str, str],
    watch: Watch,
) -> Plan:
    """What deploys a bundle, given the stack's parameters ``before`` (none for a new stack).

    ``place`` has ModelBucket, Image and Repository. What the user has not chosen stays as it was,
    and so does a bundle that differs in its signature only. Raises SettingError for values that
    do not go together, StorageError if something else lies where the bundle should.
    """
    ours = {
        **place,
        "ModelKey": f"models/{made.facts['model']}/{made.sha256}/{NAME}",
        "BundleDigest": made.sha256,
        "ManifestDigest": made.manifest_sha256,
        "Signed": "yes" if made.signed else "no",
        "Run": str(made.facts["run"]),
        "Version": str(made.facts["version"]),
    }
    there = False
    if all(before.get(name) == ours[name] for name in ("ModelBucket", "ManifestDigest", "Signed")):
        kept = {name: before[name] for name in ("ModelKey", "BundleDigest")}
        if there := _lies(storage, kept["ModelKey"], kept["BundleDigest"], made, watch):
            ours |= kept
    there = there or _lies(storage, ours["ModelKey"], made.sha256, made, watch)
    assert set(ours) == set(_OURS)
    given = {**before, **chosen, **ours}
    declared = read(template())["Parameters"]
    told = {
        name: given[name] if name in given else str(one["Default"])
        for name, one in declared.items()
    }
    _refuse_together(told, declared)
    return Plan(told, not there)


def _lies(storage: Storage, key: str, sha256: str, made: Bundle, watch: Watch) -> bool:
    """Whether a bundle is complete in a bucket: downloads and compares it."""
    if storage.size(key) is None:
        return False
    with tempfile.TemporaryDirectory(prefix="lockstep-deploy-") as folder:
        path = Path(folder) / NAME
        with moving(f"comparing with {storage}", len(made.content), watch) as moved:
            storage.get(key, path, moved)
        if (found := digest_of(path)) == sha256:
            return True
    raise StorageError(
        f"{storage}/{key}: holds another file (sha256 {found[:12]}, expected {sha256[:12]}); it was"
        " altered there. Delete it, then run the same command again."
    )


def upload(made: Bundle, storage: Storage, key: str, watch: Watch) -> None:
    """Put a bundle into a bucket, under its digest."""
    with tempfile.TemporaryDirectory(prefix="lockstep-deploy-") as folder:
        path = Path(folder) / NAME
        path.write_bytes(made.content)
        with moving(f"uploading to {storage}", len(made.content), watch) as moved:
            storage.put(key, path, made.sha256, moved)
