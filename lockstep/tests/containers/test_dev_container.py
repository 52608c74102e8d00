"""The dev container, by the reference command line, as an ordinary user of the group docker."""

import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lockstep.records.run import Run
from lockstep.tests.conftest import ROOT
from lockstep.tests.containers.conftest import BRIEF, IN_CI, copy_of_tree
from lockstep.workspace.containers import remove_containers

USER = "lockstep-dev"
Exec = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def checkout(wheelhouse: Path) -> Iterator[Path]:
    """A clone in the home of a user who is neither root nor the image's."""
    if os.geteuid() or not shutil.which("devcontainer"):
        assert not IN_CI, "CI is root and has the devcontainer command"
        pytest.skip("takes root (to make a user) and the command devcontainer")
    subprocess.run(["useradd", "--create-home", "--groups", "docker", "--uid", "1500", USER])
    home = Path(pwd.getpwnam(USER).pw_dir)
    folder = home / "work shop"
    label = f"devcontainer.local_folder={folder}"
    remove_containers(label)  # of a run of the tests that was killed
    shutil.rmtree(folder, ignore_errors=True)
    copy_of_tree(folder)
    shutil.copy(wheelhouse, folder / "wheelhouse")
    subprocess.run(["chown", "--recursive", f"{USER}:", home], check=True)
    yield folder
    remove_containers(label)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def devcontainer(checkout: Path) -> Exec:
    """A verb of the dev container command on that clone, as that user."""

    def call(verb: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        client = str(shutil.which("docker"))
        command = ["runuser", "--user", USER, "--", "devcontainer", verb]
        command += ["--workspace-folder", str(checkout), "--docker-path", client, *words]
        variables = {name: os.environ[name] for name in os.environ if name.startswith("DOCKER")}
        variables |= {"DOCKER_BUILDKIT": "1", "PATH": os.environ["PATH"]}
        variables |= {"HOME": pwd.getpwnam(USER).pw_dir, "DOCKER_CONFIG": ""}
        if base := os.environ.get("LOCKSTEP_BASE_IMAGE"):
            variables["LOCKSTEP_BASE_IMAGE"] = base
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=900)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return call


@pytest.fixture(scope="module")
def up(devcontainer: Exec) -> Exec:
    """The container, started; gives what runs commands in it."""
    devcontainer("build")
    told = json.loads(devcontainer("up").stdout.splitlines()[-1])
    assert (told["outcome"], told["remoteWorkspaceFolder"]) == ("success", "/workspace")
    return lambda *words, check=True: devcontainer("exec", *words, check=check)


def test_its_description_is_read_as_it_is_meant(devcontainer: Exec) -> None:
    done = devcontainer("read-configuration", "--include-merged-configuration")
    read = json.loads(done.stdout.splitlines()[-1])
    merged = read["mergedConfiguration"]
    assert merged["remoteUser"] == "lockstep"
    assert merged["hostRequirements"]["gpu"] == "optional"
    assert merged["forwardPorts"] == [8888, 8000, 5000]
    [vscode] = merged["customizations"]["vscode"]
    assert "ms-python.black-formatter" in vscode["extensions"]


def plain(path: Path) -> dict[str, object]:
    """A devcontainer.json without its comments."""
    return dict(json.loads(re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE)))


def test_the_one_that_requires_a_gpu_differs_in_that_alone() -> None:
    folder = ROOT / ".devcontainer"
    one, other = plain(folder / "devcontainer.json"), plain(folder / "gpu" / "devcontainer.json")
    assert {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} == {
        "name",
        "build",
        "hostRequirements",
        "updateContentCommand",
    }
    assert other["build"] == {
        **one["build"],  # type: ignore[dict-item]
        "dockerfile": "../../docker/Dockerfile",
        "context": "../..",
        "args": {**one["build"]["args"], "LOCKSTEP_TORCH": "gpu"},  # type: ignore[index]
    }


def test_it_trains_without_another_command_and_the_files_are_the_users(
    up: Exec, checkout: Path, finished_run: Run
) -> None:
    done = up("invoke", "train", "--seed", "42", *(f"--set={word}" for word in BRIEF), "--json")
    found = json.loads(done.stdout)["results"]["weights_sha256"]
    wanted = json.loads((finished_run.folder / "receipt.json").read_bytes())
    assert found == wanted["results"]["weights_sha256"]
    user = pwd.getpwnam(USER)
    made = [path for name in ("runs", "data") for path in (checkout / name).rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {
        (user.pw_uid, user.pw_gid)
    }


def test_the_editor_has_the_schema_of_each_recipe_from_the_start(up: Exec, checkout: Path) -> None:
    settings = checkout / ".vscode" / "settings.json"
    schemas = json.loads(settings.read_text())["yaml.schemas"]
    assert schemas[".vscode/schemas/project.digits.json"] == [
        "project/models/digits/recipes/*.yaml"
    ]
    assert settings.stat().st_uid == pwd.getpwnam(USER).pw_uid


def test_lint_and_tests_run_in_it(up: Exec) -> None:
    done = up("invoke", "lint", "test", "--only", "test_config or test_batches")
    assert re.search(r"\d+ passed", done.stdout)
    assert up("git", "status").returncode == 0  # git trusts the workspace


def test_its_environment_follows_the_lock(up: Exec, checkout: Path) -> None:
    # No index is reached from here; the archive has all that is expected, and more.
    look = "export LOCKSTEP_WHEELHOUSE=$(ls wheelhouse/*.tar); ./workbench --version"
    look += " && ls .venv/bin | grep -c ^nbstripout$"
    assert up("sh", "-c", look).stdout.split()[-1] == "1"
    lock = checkout / "Pipfile.lock"
    whole = lock.read_text()
    entries = json.loads(whole)
    del entries["develop"]["nbstripout"]
    lock.write_text(json.dumps(entries, indent=4))
    assert up("sh", "-c", look, check=False).stdout.split()[-1] == "0"
    lock.write_text(whole)
    assert up("sh", "-c", look).stdout.split()[-1] == "1"
    assert list((checkout / ".venv").iterdir()) == []  # the host's is another one


def test_a_shell_completes_tasks(up: Exec) -> None:
    script = (
        ". /etc/bash.bashrc; _completion_loader invoke;"
        " COMP_WORDS=(invoke new-) COMP_CWORD=1; _complete_invoke invoke new-;"
        ' echo "${COMPREPLY[@]}"'
    )
    assert up("bash", "-ic", script).stdout.split() == ["new-model"]


def test_a_second_up_finds_it_running(devcontainer: Exec, up: Exec) -> None:
    told = [json.loads(devcontainer("up").stdout.splitlines()[-1]) for _ in range(2)]
    assert told[0]["containerId"] == told[1]["containerId"]
