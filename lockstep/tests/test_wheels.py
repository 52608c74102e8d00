"""Installed files are held against the RECORD of their wheel."""

import base64
import hashlib
import os
from pathlib import Path

import pytest

from lockstep.ground import environment, wheels
from lockstep.ground.digests import canonical_json, digest_of

SOURCE = b"GAIN = 1.0\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one source file of a package ``gain``, installed into a folder on Python's path."""
    path, info = tmp_path / "gain" / "__init__.py", tmp_path / "gain-1.0.dist-info"
    path.parent.mkdir()
    info.mkdir()
    path.write_bytes(SOURCE)
    digest = base64.urlsafe_b64encode(hashlib.sha256(SOURCE).digest()).decode().rstrip("=")
    (info / "RECORD").write_text(
        f"gain/__init__.py,sha256={digest},{len(SOURCE)}\ngain-1.0.dist-info/RECORD,,\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return path


def test_a_package_as_installed_has_no_edited_files(package: Path) -> None:
    os.utime(package)  # a backup that was restored is no edit
    assert (wheels.edited(["gain"]), wheels.edited(["gain"], thorough=True)) == ({}, {})


@pytest.mark.parametrize("content", [b"GAIN = 1.1\n", b"GAIN = 1.0\nprint(GAIN)\n"])
def test_an_edited_file_is_named_and_is_another_identity(
    package: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    package.write_bytes(content)
    os.utime(package, ns=(0, package.parents[1].stat().st_mtime_ns + 10**9))
    edited = wheels.edited(["gain", "torch"])
    assert edited == {"gain": [package]}
    monkeypatch.setattr(environment, "installed", lambda: {"gain": "1.0"})
    parts = environment.Packages({}, {}, []).as_identity(["gain"], edited)
    digest = digest_of(canonical_json([digest_of(content)]))
    assert parts == {"gain": ["1.0", f"edited {digest}"]}


def test_of_two_edited_files_of_one_name_each_is_in_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "installed", lambda: {"gain": "1.0"})
    paths = [tmp_path / part / "__init__.py" for part in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(SOURCE)
    packages = environment.Packages({}, {}, [])
    states = [packages.as_identity(["gain"], {"gain": paths})]
    for path in paths:
        path.write_bytes(b"GAIN = 2.0\n")
        states.append(packages.as_identity(["gain"], {"gain": paths}))
    assert len({state["gain"][1] for state in states}) == 3


def test_an_edit_that_hides_its_time_and_size_is_seen_by_a_thorough_look(package: Path) -> None:
    time = package.stat().st_mtime_ns
    package.write_bytes(b"GAIN = 1.1\n")
    os.utime(package, ns=(time, time))
    assert wheels.edited(["gain"]) == {}
    assert wheels.edited(["gain"], thorough=True) == {"gain": [package]}


def test_files_that_another_environment_shares_are_named(package: Path, tmp_path: Path) -> None:
    assert wheels.shared(["gain"]) == []
    (tmp_path / "cache.py").hardlink_to(package)
    assert wheels.shared(["gain"]) == ["gain"]


def test_a_file_that_an_image_left_out_is_no_edit(package: Path) -> None:
    package.unlink()
    assert wheels.edited(["gain"], thorough=True) == {}
