"""What the tests of deployments share: accepted runs, and an account on moto's server."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lockstep.ground.place import Place
from lockstep.ground.watch import Watch
from lockstep.publishing.bundle import Bundle, made
from lockstep.records.run import Run
from lockstep.run.story import run_experiment
from lockstep.tests.conftest import experiment
from lockstep.tests.services import Aws

REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
REPOSITORY = "team/lockstep"


@dataclass(frozen=True)
class Cloud:
    """An account with an image, and the names of a bucket and of a stack that is not there yet."""

    aws: Aws
    bucket: str
    stack: str

    def client(self, service: str) -> Any:
        return self.aws.client(service)

    def made(self) -> dict[str, Any]:
        """What SageMaker has of the stack: endpoint, configuration, model, as it describes them."""
        sagemaker = self.client("sagemaker")
        names = [one["EndpointName"] for one in sagemaker.list_endpoints()["Endpoints"]]
        (name,) = [name for name in names if name.startswith(f"{self.stack}-")]
        found = sagemaker.describe_endpoint(EndpointName=name)
        config = sagemaker.describe_endpoint_config(EndpointConfigName=found["EndpointConfigName"])
        (variant,) = config["ProductionVariants"]
        model = sagemaker.describe_model(ModelName=variant["ModelName"])
        for described in (found, config, model):
            del described["ResponseMetadata"]
        return {"endpoint": found, "config": config, "variant": variant, "model": model}

    def names(self) -> list[str]:
        """All that is there of the stack, in whatever service."""
        sagemaker, found = self.client("sagemaker"), []
        for kind in ("Endpoint", "EndpointConfig", "Model"):
            listed = getattr(sagemaker, f"list_{_snake(kind)}s")()[f"{kind}s"]
            found += [one[f"{kind}Name"] for one in listed]
        found += [one["RoleName"] for one in self.client("iam").list_roles()["Roles"]]
        groups = self.client("logs").describe_log_groups()["logGroups"]
        found += [one["logGroupName"].rpartition("/")[2] for one in groups]
        stacks = self.client("cloudformation").describe_stacks()["Stacks"]
        found += [one["StackName"] for one in stacks]
        return sorted(name for name in found if name.startswith(self.stack))

    def objects(self) -> dict[str, Any]:
        listed = self.client("s3").list_objects_v2(Bucket=self.bucket).get("Contents", ())
        return {one["Key"]: one["LastModified"] for one in listed}

    def words(self, run: Run | str, *more: str) -> list[str]:
        given = str(run.folder) if isinstance(run, Run) else run
        return ["deploy", given, "--bucket", self.bucket, "--stack", self.stack, *more]


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]


@pytest.fixture
def cloud(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    for name, value in aws.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCKSTEP_ECR_IMAGE", f"{REGISTRY}/{REPOSITORY}:1.0")
    ecr, short = aws.client("ecr"), uuid.uuid4().hex[:12]
    if not ecr.describe_repositories()["repositories"]:
        ecr.create_repository(repositoryName=REPOSITORY)
        said = {"schemaVersion": 2, "config": {"digest": f"sha256:{'1' * 64}"}, "layers": []}
        said["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
        given = {"imageManifest": json.dumps(said), "imageTag": "1.0"}
        ecr.put_image(repositoryName=REPOSITORY, **given)
    aws.client("s3").create_bucket(Bucket=f"bucket-{short}")
    return Cloud(aws, f"bucket-{short}", f"stack-{short}")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> list[Run]:
    """Two brief runs with budgets that they keep."""
    place = Place(tmp_path_factory.mktemp("runs"), data_folder)
    budgets = ("accept.test.accuracy=>= 0", "accept.latency_ms=<= 9999")
    found = [
        run_experiment(experiment("digits/base", *budgets, seed=seed), place, Watch())
        for seed in (1, 2)
    ]
    return [run for run in found if run]


@pytest.fixture(scope="session")
def accepted(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Callable[[str], Run]:
    """A finished brief run of a recipe, to be looked at, not changed: ``accepted("tags/base")``."""

    @cache
    def train(recipe: str) -> Run:
        keeps = ("accept.test.accuracy=>= 0.05", "accept.latency_ms=<= 60000")
        place = Place(tmp_path_factory.mktemp("accepted"), data_folder)
        run = run_experiment(experiment(recipe, *keeps), place, Watch())
        assert run
        return run

    return train


@pytest.fixture(scope="session")
def digits(accepted: Callable[[str], Run]) -> Run:
    """The accepted run of digits."""
    return accepted("digits/base")


@pytest.fixture(scope="session")
def bundle(digits: Run) -> Bundle:
    """Its bundle, unsigned."""
    return made(digits)
