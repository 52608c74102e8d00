"""A run in MLflow's terms: params, metrics, tags, artifacts."""

import calendar
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.errors import RunError, printable
from lockstep.ground.files import is_held
from lockstep.records.receipt import Receipt, Results
from lockstep.records.run import Run
from lockstep.records.script import LOG, MODEL, SCRIPT, Script, options

FINISHED, RUNNING, KILLED, FAILED = "FINISHED", "RUNNING", "KILLED", "FAILED"
IDENTITY, RUN, SENT = "lockstep.identity", "lockstep.run", "lockstep.sent"
# Those at the end have a receipt beside them; before that they are not there or not yet what they
# will be.
_BEGUN = ("identity.json", "experiment.yaml")
_ENDED = ("report.html", "weights.safetensors", "preprocess.json", "receipt.json")


@dataclass(frozen=True)
class Export:
    """A run as MLflow shows it: ``metrics`` by name and step, times in ms since 1970.

    ``mark`` says how far its files are; a run in MLflow with this mark and status is complete.
    """

    run: Run
    experiment: str
    status: str
    mark: str
    began: int
    ended: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[tuple[str, int], float]
    files: list[Path]

    @property
    def key(self) -> tuple[str, str]:
        """The key that finds the run again: its identity and its name."""
        return self.tags[IDENTITY], self.tags[RUN]


def export(run: Run) -> Export:
    """Return the present state of a run; in training, up to its newest checkpoint.

    What lies beyond may be cut off and trained again. Raises RunError if a file was altered.
    """
    try:
        return _export(run)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{run.folder}: altered or removed ({reason}); not sent.") from error


def _export(run: Run) -> Export:
    if not run.name.isprintable():
        raise RunError(
            f"{printable(str(run.folder))}: has a name that cannot be printed; not sent. Rename it."
        )
    if run.script:
        return _export_script(run, run.script)
    receipt, identity, parts = run.receipt, run.identity, run.parts
    files = [run.folder / name for name in (*_BEGUN, *(_ENDED if receipt else ()))]
    if missing := [path.name for path in files if not path.is_file()]:
        raise RunError(f"{run.folder}: {missing[0]} is missing or no file; not sent.")
    began = (run.folder / "identity.json").stat().st_mtime
    tags = {
        IDENTITY: identity["digest"],
        RUN: run.name,
        "lockstep.data_sha256": parts["data"],
        "lockstep.profile": parts["profile"]["name"],
    }
    if receipt:
        results = receipt["results"]
        steps, status = results["steps"], FINISHED
        # Not of the receipt, which holds times: the same bits from two machines are one run.
        mark = f"finished {results['weights_sha256']} {results['trace_sha256']}"
        ended = _seconds(receipt["timing"]["finished"])
        began = min(began, ended - receipt["timing"]["seconds"])  # a copy's files are younger
        tags |= _receipt_tags(receipt)
    else:
        steps = run.last_step
        status = RUNNING if is_held(run.folder) else FAILED if run.failure else KILLED
        mark, ended = f"step {steps}", time.time()
    return Export(
        run,
        experiment=f"lockstep/{parts['experiment']['name']}",
        status=status,
        mark=mark,
        began=int(began * 1000),
        ended=int(max(began, ended) * 1000),
        params={"recipe": run.recipe}
        | {name: _text(value) for name, value in _flat(parts["experiment"], ".")},
        tags=tags,
        metrics=dict(_metrics(run, steps, receipt and receipt["results"])),
        files=files,
    )


def _export_script(run: Run, script: Script) -> Export:
    """The run of a script: its options are params, its outputs artifacts where it has copies."""
    receipt, identity, named = script.receipt, script.identity, script.named
    began = ended = (run.folder / "identity.json").stat().st_mtime
    files = [run.folder / name for name in ("identity.json", SCRIPT, LOG)]
    tags = {IDENTITY: identity["digest"], RUN: run.name}
    mark, metrics = "failed", {}
    if receipt:
        results, environment = receipt["results"], receipt["environment"]
        mark = f"finished {digest_of(canonical_json(results['outputs']))}"
        ended = _seconds(receipt["timing"]["finished"])
        began = min(began, ended - receipt["timing"]["seconds"])
        metrics = {(name.replace(".", "/"), 0): v for name, v in results["metrics"].items()}
        files += [run.folder / "receipt.json"]
        outputs = [script.output(name) for name, one in results["outputs"].items() if one["kept"]]
        files += {path.name: path for path in outputs}.values()  # MLflow has one of each name
        git = environment["git"]
        found = {
            "lockstep.level": receipt["level"]["promise"],
            "lockstep.dirty": "yes" if git["dirty"] else "no",
            "mlflow.source.git.commit": git["commit"],
        }
        tags |= {name: str(value) for name, value in found.items() if value}
    settings = {"recipe": named["name"], "command": " ".join(named["command"]["words"])}
    settings |= {name: str(named["command"][name]) for name in ("seed", "threads")}
    return Export(
        run,
        experiment=f"lockstep/{MODEL}",
        status=FINISHED if receipt else FAILED,
        mark=mark,
        began=int(began * 1000),
        ended=int(max(began, ended) * 1000),
        params=settings | {name: _text(v) for name, v in options(named["command"]).items()},
        tags=tags,
        metrics=metrics,
        files=files,
    )


def _seconds(finished: str) -> float:
    """The time of a receipt, in seconds since 1970."""
    return float(calendar.timegm(time.strptime(finished, "%Y-%m-%dT%H:%M:%SZ")))


def _receipt_tags(receipt: Receipt) -> dict[str, str]:
    """Return the tags from a receipt."""
    environment = receipt["environment"]
    git = environment["git"]
    found = {
        "lockstep.weights_sha256": receipt["results"]["weights_sha256"],
        "lockstep.level": receipt["level"]["promise"],
        "lockstep.image": environment["image"],
        "lockstep.notebook": "yes" if environment["notebook"] else "no",
        "lockstep.dirty": "yes" if git["dirty"] else "no",
        "mlflow.source.git.commit": git["commit"],  # its page has a column for this name
    }
    return {name: str(value) for name, value in found.items() if value}


def _metrics(
    run: Run, steps: int, results: Results | None
) -> Iterator[tuple[tuple[str, int], float]]:
    import numpy as np

    from lockstep.records.trace import RECORD

    path = run.folder / "trace.bin"
    if steps and path.is_file():
        # Not memory-mapped: a run that resumes cuts its trace to that step.
        for step, loss in enumerate(np.fromfile(path, RECORD, steps)["loss"], 1):
            if is_logged(step):
                yield ("train/loss", step), float(loss)
    for row in run.metrics() if steps else []:
        if row["step"] <= steps:
            values: dict[str, object] = {
                "train": {"epoch_loss": row["train"]["loss"], "rate": row["rate"]}
            }
            for name, value in _flat(values | {"validation": row["validation"]}, "/"):
                if value is not None:  # one that is not finite
                    yield (name, row["step"]), float(value)
    if results:
        for name, value in _flat({"test": results["metrics"]["test"]}, "/"):
            if isinstance(value, int | float):
                yield (name, results["kept_step"]), float(value)


def is_logged(step: int) -> bool:
    """Whether a step's loss is sent: each of the first 1,024, then 512 for each doubling.

    It follows from the step alone, so that it is the same however far the run is.
    """
    return step % (1 << max(step.bit_length() - 10, 0)) == 0


def _flat(tree: Mapping[str, object], dot: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested settings, by their whole names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from ((f"{name}{dot}{rest}", leaf) for rest, leaf in _flat(value, dot))
        else:
            yield name, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value).decode()
