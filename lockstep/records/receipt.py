"""Identity and receipt: what decided a run's bits, and what came of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep.ground import environment
from lockstep.ground.digests import canonical_json, digest_of, readable_json
from lockstep.ground.errors import RunError, nearest
from lockstep.ground.files import is_held
from lockstep.records import source

SCHEMA = 1
# The files whose digests are results, by the results' names.
DIGESTED = {
    "weights_sha256": "weights.safetensors",
    "trace_sha256": "trace.bin",
    "preprocess_sha256": "preprocess.json",
    "metrics_sha256": "metrics.jsonl",
    "source_sha256": "source.zip",
    "golden_sha256": "golden.json",
}


def identity(**parts: Any) -> dict[str, str]:
    """The identity: a digest of each part that decides the bits, and one over all of them."""
    digests = {
        name: part if isinstance(part, str) else digest_of(canonical_json(part))
        for name, part in parts.items()
    }
    return {"digest": digest_of(canonical_json(digests))} | digests


def receipt(
    run: str,
    identity: dict[str, str],
    environment: dict[str, Any],
    results: dict[str, Any],
    timing: dict[str, Any],
    level: dict[str, Any] | None = None,
) -> bytes:
    """The bytes of ``receipt.json``; its ``digest`` is over all the rest of it."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "run": run,
        "identity": identity,
        "environment": environment,
        "results": results,
        "timing": timing,
    }
    content |= {"level": level} if level else {}
    return readable_json(content | {"digest": digest_of(canonical_json(content))})


def level(
    profile: str, device: str, cpu: str, gpu: str | None, reasons: list[str]
) -> dict[str, Any]:
    """What a run may promise: where the same identity has the same bits.

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


@dataclass(frozen=True)
class Run:
    """A run's folder, read on demand."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def model(self) -> str:
        """The model, as the name says it."""
        return self.name.partition("-")[0]

    @property
    def receipt(self) -> dict[str, Any] | None:
        """The receipt, or None while the run is not finished."""
        return _json(self.folder / "receipt.json")

    @property
    def identity(self) -> dict[str, Any] | None:
        """What decides its bits; None for a folder that is no run."""
        return _json(self.folder / "identity.json")

    @property
    def parts(self) -> dict[str, Any]:
        """What stands behind each digest of the identity.

        ``experiment`` without what decides no bit, ``source`` name to digest, ``data`` its digest,
        ``packages`` name to version and hashes, ``profile`` with its hardware.
        """
        return _json(self.folder / "parts.json") or {}

    def experiment(self) -> dict[str, Any]:
        """The content of ``experiment.yaml``."""
        import yaml

        # What yaml.safe_load does, by libyaml: ten times as fast, for conditions on many runs.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content: dict[str, Any] = loader(
            (self.folder / "experiment.yaml").read_bytes()
        ).get_single_data()
        return content

    @property
    def state(self) -> str:
        """``finished``, ``running``, or ``stopped at step N``."""
        if (self.folder / "receipt.json").exists():
            return "finished"
        if is_held(self.folder):
            return "running"
        steps = [int(p.name) for p in self.folder.glob("checkpoints/*") if p.name.isdigit()]
        return f"stopped at step {max(steps, default=0)}"

    def summary(self) -> dict[str, Any]:
        """The line that ``invoke runs`` shows of it."""
        rest = self.name.partition("-")[2]
        recipe, seed, *_ = (*rest.rsplit("-", 2), "", "")  # a copy may have any name
        try:
            receipt = self.receipt
            test = receipt["results"]["metrics"]["test"] if receipt else {}
            notebook = receipt["environment"].get("notebook") if receipt else False
            identity = receipt["identity"] if receipt else self.identity
            state = "finished" if receipt else self.state
        except (RunError, KeyError, TypeError):
            test, identity, state, notebook = {}, {}, "altered", False
        return {
            "run": self.name,
            "state": state,
            "model": self.model,
            "recipe": recipe,
            "seed": int(seed.lstrip("s")) if seed.lstrip("s").isdigit() else None,
            "test accuracy": round(test["accuracy"], 4) if test else None,
            "identity": (identity or {}).get("digest", "")[:12],
            "from": "notebook" if notebook else None,
        }

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``, one for each epoch."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def metrics_of(receipt: dict[str, Any] | None) -> dict[str, float]:
    """The metrics of a receipt by name, as ``test.accuracy``; none of a run without one."""
    splits = receipt["results"]["metrics"] if receipt else {}
    return {
        f"{split}.{name}": value
        for split in sorted(splits)
        for name, value in splits[split].items()
        if isinstance(value, int | float)
    }


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


def verify(run: Run) -> list[str]:
    """What was altered in a run's own files, a line each that begins with the file's name.

    A run without a receipt is checked as far as its identity goes.
    """
    checks = [
        _identity_problems,
        _experiment_problems,
        _source_problems,
        _receipt_problems,
    ]
    problems = []
    for check in checks:
        try:
            problems += check(run)
        except RunError as error:
            problems.append(str(error))
    return problems


def refuse_altered(run: Run) -> None:
    """Raises RunError that names every file of a run that was altered."""
    if problems := verify(run):
        raise RunError(
            f"{run.folder}: was altered: {'; '.join(problems)}. Put the files back as they were, "
            "or train again."
        )


def refuse_changed(run: Run) -> None:
    """Raise RunError if what the run was made from, as its files say, is not what its name says."""
    if problems := [*_identity_problems(run), *_experiment_problems(run)]:
        raise RunError(f"{run.folder}: altered: {problems[0]}; put back the file as it was.")


def _identity_problems(run: Run) -> list[str]:
    found, parts = run.identity, run.parts
    problems = _rewritten(run, "identity.json", "parts.json")
    if found is None or not parts or problems:
        return problems
    digests = {name: digest for name, digest in found.items() if name != "digest"}
    if found.get("digest") != digest_of(canonical_json(digests)):
        return ["identity.json: its digest is not that of its parts"]
    wanted = identity(**parts)
    names = [name for name in wanted.keys() | digests if wanted.get(name) != found.get(name)]
    return [
        f"parts.json: {name} is not what identity.json names"
        for name in sorted(names)
        if name != "digest"
    ]


def _experiment_problems(run: Run) -> list[str]:
    """Each setting that decides bits must be as the identity has it; the others may be changed."""
    import yaml

    try:
        found = run.experiment()
        wanted = run.parts.get("experiment", {})
        same = {
            name: {key: found[name][key] for key in value} if name in _SECTIONS else found[name]
            for name, value in wanted.items()
        }
        if canonical_json(same) != canonical_json(wanted):
            return ["experiment.yaml: its settings are not those of the identity"]
    except FileNotFoundError:
        return ["experiment.yaml: is missing"]
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        return [f"experiment.yaml: does not hold the settings of the identity ({reason})"]
    return []


_SECTIONS = ("data", "model", "training")


def _source_problems(run: Run) -> list[str]:
    files, parts = source.unpacked(run.folder / "source.zip"), run.parts
    wanted = parts.get("source", {})
    if parts.get("schema", 1) == 1:
        found = source.raw_digests(files)
    elif parts.get("python") == environment.language():
        found = source.digests({name: files[name] for name in wanted if name in files})
    else:  # what source does can be told by the same Python only; the receipt has the archive's sum
        return []
    return [
        f"source.zip: {name} is not the file that ran"
        for name, digest in wanted.items()
        if found.get(name) != digest
    ]


def _receipt_problems(run: Run) -> list[str]:
    content = run.receipt
    if content is None:
        return []
    if problems := _rewritten(run, "receipt.json"):
        return problems
    digest = content.pop("digest", "none")
    if digest != (wanted := digest_of(canonical_json(content))):
        return [f"receipt.json: its digest is {digest[:12]}, that of its content {wanted[:12]}"]
    if content["identity"] != run.identity:
        return ["receipt.json: it is of another identity than identity.json"]
    problems = []
    for key, name in DIGESTED.items():
        path, wanted = run.folder / name, content["results"].get(key)
        if wanted and not path.exists():
            problems.append(f"{name}: is missing")
        elif wanted and (found := digest_of(path)) != wanted:
            problems.append(f"{name}: sha256 {found[:12]}, the receipt names {wanted[:12]}")
    return problems


def _rewritten(run: Run, *names: str) -> list[str]:
    """The JSON files that are missing, or are not byte for byte as they were written."""
    problems = []
    for name in names:
        content = _json(run.folder / name)
        if content is None:
            problems.append(f"{name}: is missing")
        elif readable_json(content) != (run.folder / name).read_bytes():
            problems.append(f"{name}: its bytes are not those that were written")
    return problems


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no object")
        return content
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(
            f"{path}: not readable as JSON ({error}); it was altered. Remove the run's folder and "
            "train again, or put the file back."
        ) from error
