"""A run as an endpoint of SageMaker, on moto's server, which acts as AWS.

What moto 5.2 does not act, is not seen here: CloudFormation there makes no alarms and no
autoscaling, ignores an endpoint's name and its deployment settings, does not replace a role, tells
no event but of the stack as a whole, rolls nothing back, and a preview sees no parameters. For
these the template itself is tested below, and rollbacks in test_rollback.py. No test asks AWS.
"""

import ast
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lockstep import cli
from lockstep.bundles import manifest
from lockstep.bundles.archive import packed
from lockstep.ground.digests import digest_of
from lockstep.ground.errors import DeploymentError, SettingError, StorageError
from lockstep.ground.storage import open_storage
from lockstep.ground.watch import Watch
from lockstep.publishing.bundle import Bundle
from lockstep.records.run import Run
from lockstep.sagemaker import endpoint
from lockstep.sagemaker.account import Account
from lockstep.sagemaker.stack import Stack
from lockstep.sagemaker.target import _IMAGE, IMAGE
from lockstep.tests.clouds import REGISTRY, REPOSITORY, Cloud
from lockstep.tests.conftest import ROOT, Call
from lockstep.tests.services import Aws

pytestmark = pytest.mark.slow  # an account on moto's server

TEMPLATE = endpoint.read((ROOT / "lockstep" / "sagemaker" / "stack.yaml").read_text())


def image_digest(aws: Aws) -> str:
    found = aws.client("ecr").describe_images(repositoryName=REPOSITORY)["imageDetails"]
    return str(found[0]["imageDigest"])


def small(content: bytes = b"weights", signature: bytes = b"") -> Bundle:
    """A bundle with nothing in it but a manifest, a file, and perhaps what signs them."""
    facts = {"model": "digits", "version": "0.1.0+00000001", "run": "a-run"}
    files = {"weights.safetensors": content}
    files[manifest.NAME] = said = manifest.make(files, facts)
    if signature:
        files[manifest.SIGNATURE] = signature
    return Bundle(facts, digest_of(said), packed(files), bool(signature))


def planned(
    cloud: Cloud, made: Bundle, before: dict[str, str] | None = None, *words: str
) -> endpoint.Plan:
    place = {
        "ModelBucket": cloud.bucket,
        "Image": f"{REGISTRY}/{REPOSITORY}@{image_digest(cloud.aws)}",
        "Repository": f"us-east-1:123456789012:repository/{REPOSITORY}",
    }
    storage = open_storage(f"s3://{cloud.bucket}")
    plan = endpoint.plan(made, storage, place, endpoint.settings(words), before or {}, Watch())
    return plan


def deployed(cloud: Cloud, made: Bundle, *words: str) -> str:
    """Deploy a bundle as the verb does; what became of it."""
    stack = Stack(cloud.stack, Account(), Watch())
    state = stack.ready()
    plan = planned(cloud, made, state.parameters if state else {}, *words)
    if plan.uploads:
        endpoint.upload(made, open_storage(f"s3://{cloud.bucket}"), plan.key, Watch())
    return stack.deploy(state, endpoint.template(), plan.parameters).action


@pytest.mark.slow
def test_a_dry_run_tells_what_would_be_made_and_leaves_nothing(
    cloud: Cloud, runs: list[Run], call: Call
) -> None:
    code, out, _ = call(*cloud.words(runs[0], "--dry-run", "--set=LogDays=7", "--json"))
    told = json.loads(out)
    assert (code, told["would"], told["uploads"], told["run"]) == (0, "create", True, runs[0].name)
    resources = {one["resource"]: (one["action"], one["type"]) for one in told["changes"]}
    assert resources == {name: ("Add", one["Type"]) for name, one in TEMPLATE["Resources"].items()}
    assert told["parameters"]["LogDays"] == {"before": "", "after": "7"}
    assert (cloud.names(), cloud.objects()) == ([], {})
    code, out, _ = call(*cloud.words(runs[0], "--dry-run"))
    assert (code, out.splitlines()[0], out.splitlines()[-1]) == (
        0,
        f"stack {cloud.stack}: would create",
        "dry run: nothing was uploaded, nothing was changed",
    )


@pytest.mark.slow
def test_a_run_is_deployed_updated_rolled_back_to_and_deleted(
    cloud: Cloud, runs: list[Run], call: Call
) -> None:
    def answering() -> tuple[str, int]:
        made = cloud.made()
        url = made["model"]["PrimaryContainer"]["ModelDataUrl"]
        return url, made["variant"]["InitialInstanceCount"]

    code, out, err = call(*cloud.words(runs[0], "--set=InstanceCount=2", "--json"))
    assert code == 0, err
    first = json.loads(out)
    key = f"models/digits/{first['sha256']}/model.tar.gz"
    assert (first["action"], first["bundle"]) == ("created", f"s3://{cloud.bucket}/{key}")
    stored = cloud.client("s3").get_object(Bucket=cloud.bucket, Key=key)["Body"].read()
    assert digest_of(stored) == first["sha256"]
    assert answering() == (first["bundle"], 2)
    assert first["endpoint"] == cloud.made()["endpoint"]["EndpointName"]
    before, objects = cloud.made(), cloud.objects()

    code, out, err = call(*cloud.words(runs[0]))
    assert (code, out.splitlines()[0]) == (0, f"stack {cloud.stack} unchanged")
    assert (cloud.made(), cloud.objects()) == (before, objects)

    code, out, err = call(*cloud.words(runs[1], "--json"))
    assert (code, f"{cloud.stack} UPDATE_COMPLETE" in err.splitlines()) == (0, True)
    second = json.loads(out)
    assert (second["action"], second["run"]) == ("updated", runs[1].name)
    assert answering() == (second["bundle"], 2)  # what was set, stays
    assert cloud.made()["endpoint"]["EndpointName"] == first["endpoint"]

    code, out, err = call(*cloud.words(runs[0], "--json"))
    back = json.loads(out)
    assert (code, back["action"], back["uploaded"]) == (0, "updated", False)
    assert answering() == (first["bundle"], 2)

    code, out, err = call("deploy", "--delete", "--stack", cloud.stack)
    assert (code, out.splitlines()) == (
        0,
        [
            f"stack {cloud.stack} deleted",
            f"its bundles stay in s3://{cloud.bucket}/models/",
        ],
    )
    assert cloud.names() == []
    assert len(cloud.objects()) == 2


def test_what_is_made_is_what_the_template_says(cloud: Cloud) -> None:
    made = small()
    assert deployed(cloud, made, "CapturePercentage=20", "LogDays=7") == "created"
    found = cloud.made()
    key = f"models/digits/{made.sha256}/model.tar.gz"
    assert found["model"]["PrimaryContainer"] == {
        "Image": f"{REGISTRY}/{REPOSITORY}@{image_digest(cloud.aws)}",
        "ModelDataUrl": f"s3://{cloud.bucket}/{key}",
    }
    variant = {"VariantName": "all", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    assert variant.items() <= found["variant"].items()
    assert found["config"]["DataCaptureConfig"] == {
        "EnableCapture": True,
        "InitialSamplingPercentage": 20,
        "DestinationS3Uri": f"s3://{cloud.bucket}/captured/{cloud.stack}",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    }
    tags = cloud.client("sagemaker").list_tags(ResourceArn=found["endpoint"]["EndpointArn"])
    assert {one["Key"]: one["Value"] for one in tags["Tags"]} == {
        "lockstep:run": "a-run",
        "lockstep:version": "0.1.0+00000001",
        "lockstep:bundle": made.sha256,
        "lockstep:manifest": made.manifest_sha256,
        "lockstep:signed": "no",
    }
    (group,) = cloud.client("logs").describe_log_groups(
        logGroupNamePrefix=f"/aws/sagemaker/Endpoints/{cloud.stack}"
    )["logGroups"]
    assert group["retentionInDays"] == 7


def role(cloud: Cloud) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The role of the stack's model, and the statements of what it may do."""
    iam = cloud.client("iam")
    name = cloud.made()["model"]["ExecutionRoleArn"].rpartition("/")[2]
    policy = iam.get_role_policy(RoleName=name, PolicyName="endpoint")["PolicyDocument"]
    statements = ast.literal_eval(policy)["Statement"]  # moto writes it as Python, and None in it
    assert iam.list_role_policies(RoleName=name)["PolicyNames"] == ["endpoint"]
    assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
    return iam.get_role(RoleName=name)["Role"], [one for one in statements if one]


def test_the_role_may_do_what_an_endpoint_needs_and_no_more(cloud: Cloud) -> None:
    made = small()
    deployed(cloud, made, "CapturePercentage=20", "CapturePrefix=seen/here")
    found, statements = role(cloud)
    (trust,) = found["AssumeRolePolicyDocument"]["Statement"]
    assert trust == {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": "123456789012"}},
    }
    logs = f"us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/{cloud.stack}:*"
    bucket = f"arn:aws:s3:::{cloud.bucket}"
    alarms = "arn:aws:cloudwatch:us-east-1:123456789012:alarm"
    assert {one["Sid"]: (one["Action"], one["Resource"]) for one in statements} == {
        "ReadTheBundle": (
            "s3:GetObject",
            f"{bucket}/models/digits/{made.sha256}/model.tar.gz",
        ),
        "PullTheImage": (
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            f"arn:aws:ecr:us-east-1:123456789012:repository/{REPOSITORY}",
        ),
        "LogInToTheRegistry": ("ecr:GetAuthorizationToken", "*"),
        "WriteTheLog": (
            ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
            f"arn:aws:logs:{logs}",
        ),
        "SeeTheAlarms": (
            "cloudwatch:DescribeAlarms",
            [f"{alarms}:{cloud.stack}-server-errors", f"{alarms}:{cloud.stack}-latency"],
        ),
        "TellTheMetrics": ("cloudwatch:PutMetricData", "*"),
        "KeepWhatIsCaptured": ("s3:PutObject", f"{bucket}/seen/here/{cloud.stack}/*"),
    }
    conditions = {one["Sid"]: one["Condition"] for one in statements if "Condition" in one}
    namespace = {"cloudwatch:namespace": "/aws/sagemaker/Endpoints"}
    assert conditions == {"TellTheMetrics": {"StringEquals": namespace}}


def test_without_capture_the_role_may_write_into_no_bucket(cloud: Cloud) -> None:
    deployed(cloud, small())
    actions = [one["Action"] for one in role(cloud)[1]]
    assert [action for action in actions if "s3:" in str(action)] == ["s3:GetObject"]
    assert cloud.made()["config"]["DataCaptureConfig"] == {}


def test_a_new_signature_of_the_same_files_is_no_change_but_a_first_one_is(cloud: Cloud) -> None:
    assert deployed(cloud, small()) == "created"
    assert deployed(cloud, small(signature=b"one")) == "updated"
    assert deployed(cloud, small(signature=b"another")) == "unchanged"
    assert len(cloud.objects()) == 2
    (key,) = [key for key in cloud.objects() if small(signature=b"one").sha256 in key]
    cloud.client("s3").delete_object(Bucket=cloud.bucket, Key=key)
    assert deployed(cloud, small(signature=b"another")) == "updated"
    url = cloud.made()["model"]["PrimaryContainer"]["ModelDataUrl"]
    assert small(signature=b"another").sha256 in url


def test_a_bundle_that_was_altered_in_the_bucket_is_refused(cloud: Cloud) -> None:
    made = small()
    key = planned(cloud, made).key
    cloud.client("s3").put_object(Bucket=cloud.bucket, Key=key, Body=made.content[:-1] + b"?")
    with pytest.raises(StorageError, match="holds another file"):
        deployed(cloud, made)
    assert cloud.names() == []


def test_a_stack_that_somebody_only_previewed_is_deleted_first(cloud: Cloud, call: Call) -> None:
    words = {"ChangeSetName": "seen", "ChangeSetType": "CREATE", "Capabilities": ["CAPABILITY_IAM"]}
    listed = [
        {"ParameterKey": name, "ParameterValue": value}
        for name, value in planned(cloud, small()).parameters.items()
    ]
    cloud.client("cloudformation").create_change_set(
        StackName=cloud.stack, TemplateBody=endpoint.template(), Parameters=listed, **words
    )
    with pytest.raises(DeploymentError, match=r"is REVIEW_IN_PROGRESS.*deploy --delete --stack"):
        deployed(cloud, small())
    assert call("deploy", "--delete", "--stack", cloud.stack)[0] == 0
    assert deployed(cloud, small()) == "created"


def test_a_stack_of_something_else_is_neither_updated_nor_deleted(cloud: Cloud, call: Call) -> None:
    other = {"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}
    cloud.client("cloudformation").create_stack(
        StackName=cloud.stack, TemplateBody=json.dumps(other)
    )
    for words in (cloud.words("run"), ["deploy", "--delete", "--stack", cloud.stack]):
        code, _, err = call(*words)
        assert (code, "did not make" in err, err.count("\n")) == (2, True, 1)
    assert cloud.stack in cloud.names()


Change = Callable[[Cloud, pytest.MonkeyPatch], list[str]]
MISTAKES: dict[str, tuple[Change, str]] = {
    "no run": (
        lambda c, m: ["deploy", "--bucket", c.bucket, "--stack", c.stack],
        "no run is named",
    ),
    "no bucket": (lambda c, m: ["deploy", "run", "--stack", c.stack], "no bucket is named"),
    "no image": (
        lambda c, m: m.delenv("LOCKSTEP_ECR_IMAGE") or c.words("run"),
        "no image is named; give --image URI or set LOCKSTEP_ECR_IMAGE",
    ),
    "a stack's name": (
        lambda c, m: ["deploy", "run", "--bucket", c.bucket, "--stack", "no_name"],
        "--stack no_name: is no name",
    ),
    "a bucket's name": (
        lambda c, m: ["deploy", "run", "--bucket", "a/b", "--stack", c.stack],
        "--bucket a/b: is no bucket's name",
    ),
    "a bucket that is not there": (
        lambda c, m: ["deploy", "run", "--bucket", "nowhere-1", "--stack", c.stack],
        "s3://nowhere-1: no such bucket",
    ),
    "a bucket elsewhere": (lambda c, m: far(c), "lies in eu-west-1, expected us-east-1"),
    "an image that is none": (
        lambda c, m: c.words("run", "--image=lockstep:1.0"),
        "--image lockstep:1.0: is no image in ECR",
    ),
    "an image that is not there": (
        lambda c, m: c.words("run", f"--image={REGISTRY}/{REPOSITORY}:2.0"),
        ":2.0: no such image; push it",
    ),
    "an image elsewhere": (
        lambda c, m: c.words("run", f"--image={REGISTRY.replace('us-east', 'eu-west')}/a:1"),
        "lies in eu-west-1, expected us-east-1",
    ),
    "no credentials": (
        lambda c, m: m.delenv("AWS_ACCESS_KEY_ID") or c.words("run"),
        "found no credentials; set AWS_ACCESS_KEY_ID",
    ),
    "no region": (
        lambda c, m: m.delenv("AWS_DEFAULT_REGION") or c.words("run"),
        "deploy: found no region; set AWS_DEFAULT_REGION",
    ),
    "nobody there": (
        lambda c, m: m.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9") or c.words("run"),
        "no server answers at this address; correct AWS_ENDPOINT_URL",
    ),
    "a setting that is none": (
        lambda c, m: c.words("run", "--set=InstanceCont=2"),
        "--set InstanceCont: is no parameter of the stack. Did you mean InstanceCount?",
    ),
    "a number that is none": (
        lambda c, m: c.words("run", "--set=CapturePercentage=101"),
        "--set CapturePercentage: found '101', expected a whole number from 0 to 100",
    ),
    "what the run decides": (
        lambda c, m: c.words("run", "--set=ModelKey=a"),
        "--set ModelKey: follows from the run",
    ),
    "a run that is not there": (lambda c, m: c.words("no-such-run"), "no-such-run"),
    "a stack to delete that is not there": (
        lambda c, m: ["deploy", "--delete", "--stack", c.stack],
        "no such stack in us-east-1",
    ),
    "too much to delete": (
        lambda c, m: c.words("run", "--delete"),
        "deploy --delete: found run as well",
    ),
}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            ["MinInstances=3", "MaxInstances=2"],
            "MaxInstances: found 2, expected MinInstances (3) or",
        ),
        (["Traffic=CANARY"], "Traffic: found CANARY with InstanceCount=1, expected 2 machines or"),
        (
            ["Traffic=CANARY", "InstanceCount=2", "MaxInstances=4"],
            "Traffic: found CANARY with MinInstances=1, expected 2 machines or more",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused_before_anything_is_uploaded(
    cloud: Cloud, words: list[str], wanted: str
) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(wanted)}.*; see --set\\.$"):
        planned(cloud, small(), None, *words)
    more = planned(cloud, small(), None, *words, "MaxInstances=4", "MinInstances=2")
    assert more.parameters["MinInstances"] == "2"


def test_a_run_whose_name_the_stack_would_not_take_is_refused_before_that(cloud: Cloud) -> None:
    named = replace(made := small(), facts=made.facts | {"run": "my best"})
    with pytest.raises(SettingError, match=r"^Run: found 'my best', expected what fits "):
        planned(cloud, named)


def far(cloud: Cloud) -> list[str]:
    where = {"LocationConstraint": "eu-west-1"}
    name = f"far-{uuid.uuid4().hex[:12]}"
    client = cloud.aws.client("s3", "eu-west-1")
    client.create_bucket(Bucket=name, CreateBucketConfiguration=where)
    return ["deploy", "run", "--bucket", name, "--stack", cloud.stack]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_in_one_line_and_nothing_is_made(
    mistake: str, cloud: Cloud, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("LOCKSTEP_RUNS", str(tmp_path))
    make, wanted = MISTAKES[mistake]
    words = make(cloud, monkeypatch)
    code, out, err = call(*words)
    assert (code, out, wanted in err, err.count("\n")) == (2, "", True, 1), err
    assert (cloud.names(), cloud.objects()) == ([], {})


def test_a_run_that_does_not_keep_its_budgets_is_not_deployed(
    cloud: Cloud, finished_run: Run, call: Call
) -> None:
    code, _, err = call(*cloud.words(finished_run))
    assert (code, "does not keep its recipe's budgets" in err) == (2, True)
    assert (cloud.names(), cloud.objects()) == ([], {})


def test_the_task_hands_on_what_it_is_given(cloud: Cloud) -> None:
    invoke = str(Path(sys.executable).with_name("invoke"))
    words = ["run", "--bucket=b/b", f"--stack={cloud.stack}", "--set=InstanceCount=2", "--dry-run"]
    done = subprocess.run([invoke, "deploy", *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "--bucket b/b: is no bucket's name" in done.stderr) == (2, True)
    words = ["deploy", "--delete", f"--stack={cloud.stack}"]
    done = subprocess.run([invoke, *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "no such stack in" in done.stderr) == (2, True)


def test_the_commands_of_the_page_are_such_as_the_verb_takes() -> None:
    page = (ROOT / "lockstep" / "docs" / "deploy.md").read_text()
    lines = [line.split() for line in page.splitlines() if line.startswith("invoke deploy")]
    parser, _ = cli.command_line()
    found = [parser.parse_args(words[1:]) for words in lines]
    assert [one.delete for one in found] == [False] * 4 + [True]
    for one in found:
        endpoint.settings(one.set)
    variables = dict(re.findall(r"(\w+)=(\S+)", page.partition("invoke deploy d")[0]))
    assert IMAGE in variables and _IMAGE.fullmatch(variables[IMAGE])
