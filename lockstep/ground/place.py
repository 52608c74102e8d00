"""Where runs and data are kept."""

import os
from dataclasses import dataclass
from pathlib import Path

_CLONE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """The folders of the workbench: ``runs``, and ``data`` for fetched and prepared data."""

    runs: Path
    data: Path

    @classmethod
    def default(cls, runs: str | None = None) -> "Place":
        """Where LOCKSTEP_RUNS and LOCKSTEP_DATA say, else folders in the clone.

        In the current folder, if the package was installed by pip.
        """
        root = _CLONE if (_CLONE / "Pipfile.lock").exists() else Path.cwd()
        runs, data = runs or os.environ.get("LOCKSTEP_RUNS"), os.environ.get("LOCKSTEP_DATA")
        return cls(Path(runs) if runs else root / "runs", Path(data) if data else root / "data")
