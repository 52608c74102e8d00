"""invoke parity: the same bits, from the same packages, wherever it trains."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lockstep.tests.conftest import ROOT
from lockstep.tests.containers.conftest import IN_CI, project
from lockstep.workspace.parity import Trial, _lacking, differences

RECEIPT: dict[str, Any] = {
    "results": {"weights_sha256": "a" * 64, "trace_sha256": "b" * 64},
    "environment": {"packages": {"torch": "2.13.0+cpu", "numpy": "2.4.6"}, "drift": []},
}


def other(**changes: object) -> Trial:
    return Trial("there", json.loads(json.dumps(RECEIPT | changes)))


def test_host_image_and_dev_container_have_the_same_bits(cpu_image: str) -> None:
    done = project(ROOT, "parity", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    trials = found["trials"]["digits/base"]
    assert found["differences"] == {"digits/base": []}
    lacking = {trial["place"] for trial in trials if trial["lacking"]}
    assert lacking <= (
        {"dev container"} if not IN_CI and not shutil.which("devcontainer") else set()
    )
    assert len({trial["weights_sha256"] for trial in trials if not trial["lacking"]}) == 1
    assert [trial["place"] for trial in trials] == ["host", "image cpu", "dev container"]


def test_a_place_that_is_not_to_be_had_is_told_and_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    lacking = {place: _lacking(place).partition(" at ")[0] for place in ("host", "image cpu")}
    assert lacking == {"host": "", "image cpu": "docker: no engine answers"}


def test_one_bit_one_package_or_a_drift_is_a_difference() -> None:
    here = Trial("here", RECEIPT)
    assert differences([here, other(), Trial("nowhere", lacking="docker")]) == []
    assert differences(
        [here, other(results={"weights_sha256": "c" * 64, "trace_sha256": "b" * 64})]
    ) == ["weights: aaaaaaaaaaaaaaaa (here), cccccccccccccccc (there)"]
    packages = {"torch": "2.13.0", "numpy": "2.4.5"}  # CUDA's torch is the same version
    assert differences([here, other(environment={"packages": packages, "drift": []})]) == [
        "numpy: 2.4.6 (here), 2.4.5 (there)"
    ]
    drift = RECEIPT["environment"] | {"drift": ["numpy: locked 2.4.6, installed 2.4.5"]}
    assert differences([here, other(environment=drift)]) == [
        "there: numpy: locked 2.4.6, installed 2.4.5"
    ]
    assert differences([here, Trial("there", failure="exit code 1")]) == ["there: exit code 1"]
