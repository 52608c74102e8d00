"""What the packages here are, held against a lock."""

import importlib.metadata
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lockstep.ground import environment, wheels
from lockstep.workspace import doctor

HERE = environment.installed()
WHEELS = wheels.digests(HERE)
Lock = Callable[..., None]


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lock:
    """Put another lock in place: ``lock(default={"numpy": "==1.0"})``."""

    def put(**sections: dict[str, Any]) -> None:
        content = {
            section: {
                name: entry if isinstance(entry, dict) else {"version": entry, "hashes": ["b", "a"]}
                for name, entry in entries.items()
            }
            for section, entries in sections.items()
        }
        (tmp_path / "Pipfile.lock").write_text(json.dumps(content))
        monkeypatch.setattr(environment, "LOCK", tmp_path / "Pipfile.lock")

    return put


def category() -> str:
    """The lock's section of the torch that is installed."""
    return environment.torch_category(HERE)


def test_the_installed_packages_are_those_that_python_itself_finds() -> None:
    found = importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    names = {environment.normal(item.name): item.version for item in found}
    assert dict(sorted(names.items())) == HERE


def test_what_is_as_locked_stands_in_the_identity_with_its_wheel(lock: Lock) -> None:
    lock(default={"numpy": f"=={HERE['numpy']}"}, **{category(): {"torch": f"==={HERE['torch']}"}})
    found = environment.packages()
    assert wheels.as_identity(found.installed, found.locked) == {
        "numpy": [HERE["numpy"], f"wheel {WHEELS['numpy']}"],
        "torch": [HERE["torch"], f"wheel {WHEELS['torch']}"],
    }
    assert found.drift == []


def test_a_file_more_in_the_lock_changes_no_identity(lock: Lock) -> None:
    """As of a platform that was not locked before."""
    identities = []
    for hashes in (["a"], ["a", "b"]):
        lock(default={"numpy": {"version": f"=={HERE['numpy']}", "hashes": hashes}})
        found = environment.packages()
        identities.append(wheels.as_identity(found.installed, found.locked))
    assert identities[0] == identities[1]


def test_each_package_that_is_not_as_locked_is_named_and_marked(lock: Lock) -> None:
    lock(default={"numpy": "==0.1", "no-such-package": "==1.0", "xxhash": f"=={HERE['xxhash']}"})
    found = environment.packages()
    assert found.drift == [
        "no-such-package: locked 1.0, installed none",
        f"numpy: locked 0.1, installed {HERE['numpy']}",
    ]
    assert wheels.as_identity(found.installed, found.locked) == {
        "numpy": [HERE["numpy"], f"not as locked, wheel {WHEELS['numpy']}"],
        "xxhash": [HERE["xxhash"], f"wheel {WHEELS['xxhash']}"],
    }
    assert environment.facts(1, "2")["drift"] == found.drift


def test_the_tools_of_development_do_not_count(lock: Lock) -> None:
    lock(default={}, develop={"pytest": "==0.1"})
    assert (environment.packages().drift, environment.packages().installed) == ([], {})


def test_entries_for_other_platforms_are_passed_over(lock: Lock) -> None:
    here = f"sys_platform == '{sys.platform}' and platform_machine == '{platform.machine()}'"
    markers = {
        "there": "sys_platform == 'win32'",
        "other-machine": "platform_machine == 'vax'",
        "either": f"sys_platform == 'win32' or ({here})",
        "here": here,
        "old-python": "python_version >= '3.9'",
        "none": "",
    }
    entries = {name: {"version": "==1", "markers": text} for name, text in markers.items()}
    lock(default=entries)
    assert list(environment.locked_packages("default")) == ["either", "here", "old-python", "none"]


def test_a_name_may_be_written_in_any_of_its_ways(lock: Lock) -> None:
    lock(default={"Scikit_Learn": f"=={HERE['scikit-learn']}", "PyYAML": "==0.1"})
    found = environment.packages()
    assert found.installed == {name: HERE[name] for name in ("pyyaml", "scikit-learn")}
    assert found.drift == [f"pyyaml: locked 0.1, installed {HERE['pyyaml']}"]


def test_without_a_lock_all_that_is_installed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "LOCK", tmp_path / "Pipfile.lock")
    found = environment.packages()
    assert (found.installed, found.drift) == (HERE, ["no Pipfile.lock beside the package"])
    assert wheels.as_identity(["torch"], found.locked) == {
        "torch": [HERE["torch"], f"not as locked, wheel {WHEELS['torch']}"]
    }


@pytest.mark.parametrize(
    ("version", "wanted"), [("2.13.0+cpu", "cpu"), ("2.13.0", "gpu"), ("2.13.0+cu130", "gpu")]
)
def test_the_category_is_that_of_the_torch_that_is_installed(version: str, wanted: str) -> None:
    assert environment.torch_category({"torch": version}) == wanted


def test_the_doctor_holds_the_lock_against_what_is_installed_both_ways(lock: Lock) -> None:
    locked = {name: f"=={version}" for name, version in HERE.items()}
    lock(default=locked)
    well = doctor._lock()
    del locked["numpy"]
    lock(default=locked | {"no-such-package": "==1.0", "xxhash": "==0.1"})
    ill = doctor._lock()
    assert (well.ok, well.text) == (True, f"{len(HERE)} packages as locked, category {category()}")
    assert (ill.ok, ill.text) == (
        False,
        f"xxhash {HERE['xxhash']} (locked 0.1), no-such-package missing (locked 1.0), "
        f"numpy {HERE['numpy']} (not in the lock); run ./workbench to fix this",
    )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            "NVIDIA A10G, 550.54.15, 8.6",
            "NVIDIA A10G, driver 550.54.15, capability 8.6; CUDA 13 needs driver 580 or newer: "
            "update the driver",
        ),
        (
            "Tesla V100-SXM2-16GB, 580.65.06, 7.0",
            "Tesla V100-SXM2-16GB, driver 580.65.06, capability 7.0; CUDA 13 needs capability 7.5: "
            "train on the CPU",
        ),
        (
            "Tesla T4, 580.65.06, 7.5",
            "Tesla T4, driver 580.65.06, capability 7.5, but torch is the CPU build; "
            "LOCKSTEP_TORCH=gpu ./workbench",
        ),
    ],
)
def test_the_doctor_names_the_driver_and_the_capability_that_cuda_needs(
    answer: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(environment, "installed", lambda: HERE | {"torch": "2.13.0+cpu"})
    found = doctor._gpu()
    assert (found.ok, found.text) == (False, text)


def test_the_facts_are_those_of_this_process() -> None:
    facts = environment.facts(torch.get_num_threads(), torch.__version__)
    assert list(facts) == [
        "lockstep",
        "python",
        "torch",
        "platform",
        "cpu",
        "threads",
        "git",
        "image",
        "notebook",
        "packages",
        "drift",
    ]
    assert (facts["python"], facts["torch"]) == (platform.python_version(), torch.__version__)
    assert (facts["threads"], facts["cpu"]["model"] != "") == (1, True)
