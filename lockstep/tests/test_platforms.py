"""Every platform that the lock claims has a file of each package, by the names of the files alone.

uv asks the indexes of this machine what there is, and downloads nothing.
"""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import installers
import lockfile
import process
import pytest

ROOT = Path(__file__).parents[2]
LOCK = json.loads((ROOT / "Pipfile.lock").read_text())
PLATFORMS = [
    ("cpu", "x86_64-manylinux_2_28"),
    ("gpu", "x86_64-manylinux_2_28"),
    ("cpu", "aarch64-manylinux_2_28"),
    ("gpu", "aarch64-manylinux_2_28"),
    ("gpu", "aarch64-apple-darwin"),
]
# Not on the indexes of every machine: the +cpu wheels, whose digests `test_lock.py` holds.
APART = "torch"


def files(folder: Path, torch: str, platform: str) -> dict[str, dict[str, Any]]:
    """The packages that a platform installs, with the files that are offered for it."""
    entries = lockfile.entries(LOCK, ("packages", "dev-packages", torch))
    pins = [
        f"{name}==={entry['version'].lstrip('=')}"
        + (f" ; {entry['markers']}" if "markers" in entry else "")
        for name, entry in entries.items()
        if not (torch == "cpu" and name == APART)
    ]
    (folder / "requirements.in").write_text("\n".join(pins))
    settings, variables = installers.uv_settings({})
    command: list[str | Path] = [
        installers.tool("uv"),
        "pip",
        "compile",
        "--no-config",
        "--no-deps",
        "--quiet",
    ]
    command += ["--format", "pylock.toml", "--python-platform", platform, *settings]
    command += ["--python-version", "3.11.9", folder / "requirements.in"]
    # The oldest macOS that all of the lock has files for.
    environment = process.environment(**variables, MACOSX_DEPLOYMENT_TARGET="14.0")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {package["name"]: package for package in tomllib.loads(done.stdout)["packages"]}


@pytest.mark.slow
@pytest.mark.parametrize(("torch", "platform"), PLATFORMS, ids=" ".join)
def test_each_package_has_a_locked_file_for_each_claimed_platform(
    torch: str, platform: str, tmp_path: Path
) -> None:
    entries = lockfile.entries(LOCK, ("packages", "dev-packages", torch))
    locked = {lockfile.normal(name): set(entry["hashes"]) for name, entry in entries.items()}
    offered = files(tmp_path, torch, platform)
    assert len(offered) > 200
    missing = [
        name
        for name, package in offered.items()
        if not locked[name]
        & {f"sha256:{file['hashes']['sha256']}" for file in package.get("wheels", [])}
    ]
    assert missing == []
