"""Models of each kind."""

from pathlib import Path

import pytest

from lockstep.tests.answers.kinds import Kinds


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kinds:
    """Models of each kind, made when they are asked for."""
    return Kinds(tmp_path, monkeypatch)
