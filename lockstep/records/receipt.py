"""The receipt of a run: what it holds, making it, and reading one of any edition."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.environment import Facts
from lockstep.records.identity import Identity
from lockstep.records.reading import Altered, json_object, refuse_newer, shaped

NAME = "receipt.json"
SCHEMA = 3
# The files whose digests are results, by the results' names.
DIGESTED = {
    "weights_sha256": "weights.safetensors",
    "trace_sha256": "trace.bin",
    "preprocess_sha256": "preprocess.json",
    "metrics_sha256": "metrics.jsonl",
    "source_sha256": "source.zip",
    "golden_sha256": "golden.json",
}


# Metrics of each class by name, in the order of the labels; ``support`` is its number of examples.
PerClass = dict[str, list[float]]
# Metrics of one split by name: numbers, None for one that is not finite; where there are classes
# also ``per_class``, and ``confusion[i][j]``, which counts examples of class i taken for class j.
# ``not_finite`` counts the answers that are no numbers, if there are any.
Metrics = dict[str, Any]


class Splits(TypedDict):
    """The metrics of the weights that were kept, by split."""

    validation: Metrics
    test: Metrics


class Seen(TypedDict):
    """What an epoch saw: its number of steps, and a digest of the examples' ids in their order."""

    epoch: int
    steps: int
    ids_xxh3: str


class Results(TypedDict):
    """What came of a run. The digests are of its files; an empty one was not recorded.

    ``monitor`` is the metric that said which weights are better; receipts before schema 3 don't
    have it, and their experiment does.
    """

    steps: int
    epochs: int
    kept_step: int
    labels: list[str]
    data: list[Seen]
    data_version: str
    metrics: Splits
    monitor: NotRequired[str]
    weights_sha256: str
    trace_sha256: str
    preprocess_sha256: str
    metrics_sha256: str
    source_sha256: str
    golden_sha256: str


class Timing(TypedDict):
    """When a run was finished (UTC), and how long its last session took, in seconds."""

    finished: str
    seconds: float
    workers: int
    resumed_at_step: int
    samples_per_second: float


class Level(TypedDict):
    """Where the same identity has the same bits, and what lowered that."""

    promise: str
    lowered: list[str]


class Receipt(TypedDict):
    """The content of ``receipt.json``; ``digest`` is over all the rest of it.

    ``accept`` are the budgets that its recipe stated; receipts before them do not say.
    """

    schema: int
    run: str
    identity: Identity
    environment: Facts
    results: Results
    timing: Timing
    level: Level
    accept: NotRequired[dict[str, str]]
    digest: str


# What receipts of schema 1 came to say one by one, as it is read where it is not said.
_FIRST_EDITION: dict[str, Any] = {
    "environment": {"packages": {}, "notebook": False, "lockstep": "first edition"},
    "results": {"metrics_sha256": "", "source_sha256": "", "golden_sha256": "", "data_version": ""},
    "timing": {"workers": 1},
    "level": {
        "promise": "same bits on this machine",
        "lowered": ["its Lockstep did not verify operations yet"],
    },
}


def receipt(
    run: str,
    identity: Identity,
    environment: Facts,
    results: Results,
    timing: Timing,
    level: Level,
    accept: dict[str, str],
) -> bytes:
    """Return the bytes of ``receipt.json``."""
    content = {
        "schema": SCHEMA,
        "run": run,
        "identity": identity,
        "environment": environment,
        "results": results,
        "timing": timing,
        "level": level,
        "accept": accept,
    }
    return seal(content)


def seal(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a receipt, with the digest of all the rest of it."""
    return readable_json({**content, "digest": digest_of(canonical_json(content))})


def read(path: Path) -> Receipt | None:
    """Return the receipt that a file holds, None if there is no such file.

    One of schema 1 is completed by what its Lockstep did not record. Raises NewerSchema for a
    schema that is not known here, RunError for a file that holds no receipt or whose digest is not
    that of its content.
    """
    content = json_object(path)
    if content is None:
        return None
    refuse_newer(path, content.get("schema"), SCHEMA)
    complete = _completed(content, _FIRST_EDITION) if content["schema"] == 1 else content
    checked = shaped(path, complete, Receipt)
    if problem := misfit_of_seal(content):
        raise Altered(path, problem)
    return checked


def misfit_of_seal(content: Mapping[str, Any]) -> str:
    """Return what is wrong with the digest of a receipt as it was written; empty if nothing is."""
    sealed = {name: value for name, value in content.items() if name != "digest"}
    try:
        digest = digest_of(canonical_json(sealed))
    except ValueError as error:  # such as a number that is not finite
        return f"holds what no receipt holds ({error})"
    if content["digest"] == digest:
        return ""
    return f"its digest is {content['digest']:.12}, that of its content {digest[:12]}"


def _completed(content: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The content with the keys that it lacks, in objects within it as well."""
    complete = {**defaults, **content}
    for name, inner in defaults.items():
        if isinstance(inner, dict) and isinstance(complete[name], dict):
            complete[name] = inner | complete[name]
    return complete


def level(profile: str, device: str, cpu: str, gpu: str | None, reasons: list[str]) -> Level:
    """Return what a run may promise: where the same identity has the same bits.

    ``reasons`` say what, in this run, may depend on the CPU in spite of the portable profile.
    """
    if device == "cuda":
        promise = f"same bits on the same GPU model ({gpu})"
    elif profile == "native":
        promise = f"same bits on this kind of machine ({cpu})"
    elif reasons:
        promise = "same bits on this machine"
    else:
        promise = "same bits on any AVX2 x86-64 CPU (portable)"
    return {"promise": promise, "lowered": reasons}


def metrics_of(receipt: Receipt | None) -> dict[str, float | None]:
    """Return the metrics of a receipt by name, as ``test.loss``; none of a run without one.

    One that is not finite is None.
    """
    splits: Mapping[str, Any] = receipt["results"]["metrics"] if receipt else {}
    return {
        f"{split}.{name}": value
        for split in sorted(splits)
        for name, value in splits[split].items()
        if value is None or isinstance(value, int | float)
    }


def monitor_of(receipt: Receipt, settings: Mapping[str, Any]) -> str:
    """Return the metric that a run went by; ``settings`` are those of its experiment."""
    return receipt["results"].get("monitor") or str(settings["training"]["monitor"])
