"""Installed files are held against the RECORD of their wheel."""

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lockstep.ground import environment, wheels
from lockstep.ground.digests import canonical_json, digest_of
from lockstep.ground.environment import Locked

ROOT = Path(__file__).parents[2]
SOURCE = b"GAIN = 1.0\n"
LOCKED: dict[str, Locked] = {"gain": {"version": "1.0", "hashes": ["a"]}}


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
    wheel = f"wheel {wheels.digests(['gain'])['gain']}"
    digest = digest_of(canonical_json([wheel, digest_of(content)]))
    assert wheels.as_identity(["gain"], LOCKED) == {"gain": ["1.0", f"edited {digest}"]}


def test_of_two_edited_files_of_one_name_each_is_in_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "installed", lambda: {"gain": "1.0"})
    paths = [tmp_path / part / "__init__.py" for part in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(SOURCE)
    monkeypatch.setattr(wheels, "edited", lambda _: {"gain": paths})
    states = [wheels.as_identity(["gain"], LOCKED)]
    for path in paths:
        path.write_bytes(b"GAIN = 2.0\n")
        states.append(wheels.as_identity(["gain"], LOCKED))
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


def built(folder: Path, tag: str, source: bytes = SOURCE) -> Path:
    """A wheel of a package ``gain`` with a module, a program and data, of a platform's tag."""
    info, files = "gain-1.0.dist-info", dict[str, bytes]()
    files["gain/__init__.py"] = source
    files["gain-1.0.data/scripts/gain"] = b"#!python\n"
    files["gain-1.0.data/data/share/gain.txt"] = b"1.0"
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: gain\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nshow-gain = gain:show\n"
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    path = folder / f"gain-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def install(wheel: Path, home: Path, installer: str) -> str:
    """Install a wheel into a new environment; return its digest there."""
    python, uv = str(home / "bin" / "python"), str(Path(sys.prefix) / "tools" / "bin" / "uv")
    without = ["--without-pip"] if installer == "uv" else []
    make = [sys.executable, "-m", "venv", *without, str(home)]
    how = {
        "pip": [python, "-m", "pip", "install", "--no-index", "--compile", str(wheel)],
        "uv": [uv, "pip", "install", "--offline", "--python", python, str(wheel)],
    }
    for command in (make, how[installer]):
        subprocess.run(command, check=True, capture_output=True)
    code = "from lockstep.ground import wheels; print(wheels.digests(['gain'])['gain'])"
    done = subprocess.run(
        [python, "-P", "-c", code],
        env={"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_each_installer_and_folder_gives_a_wheel_the_same_identity(tmp_path: Path) -> None:
    wheel = built(tmp_path, "py3-none-any")
    by_pip, by_uv = (install(wheel, tmp_path / "a" / name, name) for name in ("pip", "uv"))
    assert by_pip == by_uv


def test_the_wheel_of_another_platform_is_another_identity(package: Path) -> None:
    record = package.parents[1] / "gain-1.0.dist-info" / "RECORD"
    lines, identities = record.read_text(), set[str]()
    for digest in ("x86_64", "aarch64"):
        record.write_text(f"gain-1.0.dist-info/WHEEL,sha256={digest},9\n{lines}")
        identities |= {wheels.digests(["gain"])["gain"]}
        record.write_text(  # what another installer adds, in another order
            f"{lines}gain-1.0.dist-info/INSTALLER,sha256=c,3\n../../../bin/gain,sha256=d,20\n"
            f"gain-1.0.dist-info/WHEEL,sha256={digest},9\ngain/__pycache__/__init__.pyc,,\n"
        )
        identities |= {wheels.digests(["gain"])["gain"]}
    assert len(identities) == 2
