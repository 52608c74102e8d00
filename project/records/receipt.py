"""Identity and receipt: what decided a run's bits, and what came of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from project.errors import RunError
from project.files import canonical_json, digest_of, is_held, nearest, readable_json

SCHEMA = 1


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
) -> bytes:
    """The bytes of ``receipt.json``."""
    return readable_json(
        {
            "schema": SCHEMA,
            "run": run,
            "identity": identity,
            "environment": environment,
            "results": results,
            "timing": timing,
        }
    )


@dataclass(frozen=True)
class Run:
    """A run's folder, read on demand."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def receipt(self) -> dict[str, Any] | None:
        """The receipt, or None while the run is not finished."""
        return _json(self.folder / "receipt.json")

    @property
    def identity(self) -> dict[str, Any] | None:
        """What decides its bits; None for a folder that is no run."""
        return _json(self.folder / "identity.json")

    def experiment(self) -> dict[str, Any]:
        """The content of ``experiment.yaml``."""
        import yaml

        content: dict[str, Any] = yaml.safe_load((self.folder / "experiment.yaml").read_bytes())
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
        receipt, (model, _, rest) = self.receipt, self.name.partition("-")
        recipe, seed, *_ = (*rest.rsplit("-", 2), "", "")  # a copy may have any name
        test = receipt["results"]["metrics"]["test"] if receipt else {}
        return {
            "run": self.name,
            "state": self.state,
            "model": model,
            "recipe": recipe,
            "seed": int(seed.lstrip("s")) if seed.lstrip("s").isdigit() else None,
            "test accuracy": round(test["accuracy"], 4) if test else None,
            "identity": (self.identity or {}).get("digest", "")[:12],
        }

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``, one for each epoch."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


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


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(
            f"{path}: not readable as JSON ({error}); it was altered. Remove the run's folder and "
            "train again, or put the file back."
        ) from error
