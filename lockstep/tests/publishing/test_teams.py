"""Two teams' packages and the engine, installed by pip in one environment without this clone."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from lockstep import __version__
from lockstep.ground.environment import normal
from lockstep.ground.home import ENGINE, ROOT
from lockstep.records import source
from lockstep.tests.conftest import copy_of_tracked_files, plain_environment

pytestmark = pytest.mark.slow
PICTURE = str(ENGINE / "docs" / "three.png")


@dataclass(frozen=True)
class Teams:
    """An environment with the packages ``acme`` and ``zenith``, and a folder to work in."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "environment" / "bin" / "python"

    def clone(self, name: str) -> Path:
        return self.folder / f"{name} clone"

    def install(self, name: str) -> None:
        """``pip install .`` in a team's clone, with what the lock has and without an index."""
        offline = ("--quiet", "--no-index", "--no-build-isolation")
        pip("--python", self.python, "install", *offline, self.clone(name))

    def call(
        self, *words: str, team: str = "", code: int = 0, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """The installed ``lockstep`` with these words, or Python with ``-c``."""
        program = [self.python] if words[0] == "-c" else [self.python.with_name("lockstep")]
        known = {"PYTHONPATH", "LOCKSTEP_PROJECT", "LOCKSTEP_WEIGHTS"}
        mine = {name: value for name, value in plain_environment().items() if name not in known}
        variables = {
            "LOCKSTEP_PROJECT": team,
            "LOCKSTEP_DATA": str(self.folder / "data"),
        } | variables
        done = subprocess.run(
            [*program, *words],
            cwd=self.folder,
            env=mine | variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done


def pip(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words],
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def teams(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Teams:
    teams = Teams(tmp_path_factory.mktemp("teams"))
    for name in ("acme", "zenith"):
        clone = copy_of_tracked_files(teams.clone(name))
        shutil.copytree(ENGINE / "examples", clone / name)
        rename(clone, name, "1.0")
    environment = teams.folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("acme", "zenith"):
        teams.install(name)
    return teams


def rename(clone: Path, name: str, version: str) -> None:
    """Give a clone's package its name and version, in the two lines that have them."""
    path = clone / "pyproject.toml"
    lines = path.read_text().splitlines()
    start = lines.index("[project]")
    for key, value in (("name", name), ("version", version)):
        number = next(n for n in range(start, len(lines)) if lines[n].startswith(f"{key} = "))
        lines[number] = f'{key} = "{value}"'
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def published(teams: Teams) -> Path:
    """A storage to which each team has published its own digits."""
    storage = teams.folder / "storage"
    storage.mkdir()
    brief = ("training.epochs=1", "data.limit=100", "accept.test.accuracy='>= 0'", "--workers=1")
    for seed, team in enumerate(("acme", "zenith"), 1):
        teams.call("train", "digits/base", *brief, f"--seed={seed}", "--runs", team, team=team)
        teams.call("publish", "digits-base", "--runs", team, "--to", str(storage), team=team)
    return storage


def test_pip_installs_the_engine_and_each_team_as_distributions_of_their_own(teams: Teams) -> None:
    code = """
import json
from importlib import metadata
print(json.dumps({name: metadata.version(name) for name in ("acme", "zenith", "lockstep")}))
"""
    versions = json.loads(teams.call("-c", code).stdout)
    assert versions == {"acme": "1.0", "zenith": "1.0", "lockstep": __version__}
    changed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert [name for name in changed if name.endswith((".egg-info", "build"))] == []
    left = {path.name for path in (teams.clone("acme") / "lockstep").iterdir()}
    assert {"build", "lockstep.egg-info"} & left == set()


def test_the_engines_wheel_has_its_examples_and_pages_and_nothing_of_its_workshop(
    tmp_path: Path, teams: Teams
) -> None:
    pip("wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
        "--wheel-dir", tmp_path, teams.clone("acme") / "lockstep")  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("lockstep/")}
    workshop = ("lockstep/tests/", "lockstep/docs/", "lockstep/benchmarks/", "lockstep/setup.py")
    listed = subprocess.run(
        ["git", "ls-files", "lockstep"], cwd=ROOT, capture_output=True, text=True
    )
    tracked = {name for name in listed.stdout.splitlines() if not name.startswith(workshop)}
    of_the_folder = ("pyproject.toml", "CHANGELOG.md", "CONTRIBUTING.md")
    beside = {f"lockstep/{name}" for name in of_the_folder}
    assert names == {name for name in tracked if (ROOT / name).exists()} - beside


def test_the_engine_declares_every_distribution_that_it_imports() -> None:
    # Of boto3, fastapi, the build, SageMaker's containers, an interpreter's own start-up file, and
    # the libraries of the examples `lit` and `hf`, which say so where they are missing.
    through_others = {"botocore", "starlette", "setuptools", "sagemaker_inference"}
    through_others |= {"sitecustomize", "lightning", "transformers"}
    workshop = {ENGINE / name for name in ("tests", "docs", "benchmarks")}
    files = [path for path in ENGINE.rglob("*.py") if not workshop & {*path.parents}]
    names = source.third_party(
        {str(path.relative_to(ROOT)): path.read_bytes() for path in files}, ""
    )
    owners = metadata.packages_distributions()
    tops = {name.partition(".")[0] for name in names} - through_others
    imported = {normal(owner) for top in tops for owner in owners[top]} - {"mlflow-skinny"}
    project = tomllib.loads((ENGINE / "pyproject.toml").read_text())["project"]
    everything = [*project["dependencies"], *project["optional-dependencies"]["all"]]
    declared = {normal(re.split("[=<>]", one)[0]) for one in everything}
    assert imported - declared - {"mlflow-tracing"} == set()
    assert declared - imported == {"cyclonedx-bom"}  # run as a program


def test_of_several_installed_projects_one_has_to_be_named(teams: Teams) -> None:
    told = "error: LOCKSTEP_PROJECT: not set, and 2 projects are installed; set it to one of "
    assert teams.call("config", code=2).stderr == f"{told}acme, zenith.\n"
    assert "digits/recipes/base.yaml" in teams.call("config", "digits/base", team="acme").stdout


def test_each_team_loads_the_others_published_weights_in_one_process(
    teams: Teams, published: Path
) -> None:
    code = f"""
import json
from acme import load as load_acme, load_features as acme_features
from zenith import load as load_zenith, load_features as zenith_features
import torch

models = [load_acme("digits", pretrained=True), load_zenith("digits", pretrained=True)]
runs = [load_acme("digits", "acme/" + {run_of(teams, "acme")!r}),
        load_zenith("digits", "zenith/" + {run_of(teams, "zenith")!r})]
answers = [model.predict([{PICTURE!r}])[0]["confidences"] for model in (*models, *runs)]
features = [acme_features("digits", pretrained=True), zenith_features("digits", pretrained=True)]
weights = [next(part.parameters()) for part in features]
print(json.dumps({{
    "modules": [type(model).__module__.partition(".")[0] for model in models],
    "own": [answers[0] == answers[2], answers[1] == answers[3]],
    "same": answers[0] == answers[1] or torch.equal(*weights),
    "frozen": not any(one.requires_grad for one in weights),
}}))
"""
    for storage in (str(published), ""):  # what was fetched needs none
        assert json.loads(teams.call("-c", code, LOCKSTEP_WEIGHTS=storage).stdout) == {
            "modules": ["acme", "zenith"],
            "own": [True, True],
            "same": False,
            "frozen": True,
        }


def run_of(teams: Teams, team: str) -> str:
    (run,) = (teams.folder / team).glob("digits-base-*")
    return run.name


def test_a_newer_version_publishes_the_same_run_again_and_trains_nothing(
    teams: Teams, published: Path
) -> None:
    words = ["publish", "digits-base", "--runs", "acme", "--to", str(published), "--json"]
    before = json.loads(teams.call(*words, team="acme").stdout)
    rename(teams.clone("acme"), "acme", "1.1")
    teams.install("acme")
    after = json.loads(teams.call(*words, team="acme").stdout)
    identity = before["identity"][:8]
    assert (before["version"], before["new"]) == (f"1.0+{identity}", False)
    assert (after["version"], after["new"]) == (f"1.1+{identity}", True)
    assert (before["run"], before["identity"]) == (after["run"], after["identity"])
    assert json.loads(teams.call(*words, team="acme").stdout) == after | {"new": False}


def test_a_bundle_answers_by_the_code_of_the_team_that_trained_it(
    teams: Teams, published: Path
) -> None:
    (bundle,) = published.glob("weights/zenith.digits/*/*/model.tar.gz")
    run = f"zenith/{run_of(teams, 'zenith')}"
    answers = [
        teams.call("predict", source, PICTURE, "--json", team=team).stdout
        for source, team in ((run, "zenith"), (str(bundle), "zenith"), (str(bundle), "acme"))
    ]
    assert answers == answers[:1] * 3


def test_an_installed_engine_has_the_template_that_it_deploys(teams: Teams) -> None:
    code = "from lockstep.sagemaker import endpoint; print(endpoint.template(), end='')"
    assert teams.call("-c", code).stdout == (ENGINE / "sagemaker" / "stack.yaml").read_text()
    assert "--stack NAME" in teams.call("deploy", "--help").stdout
