"""The template of the endpoint's stack: of what moto's CloudFormation does not make, all that can
be known without AWS.
"""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from lockstep.sagemaker import endpoint
from lockstep.tests.conftest import ROOT
from lockstep.tests.services import Aws

PATH = ROOT / "lockstep" / "sagemaker" / "stack.yaml"
TEMPLATE = endpoint.read(PATH.read_text())
RESOURCES = TEMPLATE["Resources"]
OF_A_BUNDLE = {"ModelKey", "BundleDigest", "ManifestDigest", "Signed", "Run", "Version"}
# What a deployment is told, that has no default.
GIVEN = {
    "Image": f"123456789012.dkr.ecr.us-east-1.amazonaws.com/a@sha256:{'0' * 64}",
    "Repository": "us-east-1:123456789012:repository/a",
    "ModelBucket": "models",
    "ModelKey": f"models/digits/{'0' * 64}/model.tar.gz",
    "BundleDigest": "0" * 64,
    "ManifestDigest": "1" * 64,
    "Signed": "no",
    "Run": "digits-base-s42-00000000",
    "Version": "0.1.0+00000000",
}


def properties(name: str, **given: str) -> Any:
    """A resource's properties with parameters and conditions put in, by moto's own reading."""
    from moto.cloudformation.parsing import ResourceMap, clean_json

    where = ("arn:aws:cloudformation:us-east-1:123456789012:stack/shop/1", "shop")
    found = ResourceMap(*where, {**GIVEN, **given}, {}, "us-east-1", "123456789012", TEMPLATE, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it knows nothing
        found.load()
        return clean_json(RESOURCES[name]["Properties"], found)


def references(part: Any) -> set[str]:
    """All that a part of the template refers to."""
    if isinstance(part, dict):
        found = {part["Ref"]} if "Ref" in part else set()
        found |= {part["Fn::GetAtt"][0]} if "Fn::GetAtt" in part else set()
        if isinstance(text := part.get("Fn::Sub"), str):
            found |= {word.partition("}")[0] for word in text.split("${")[1:]}
        return found.union(*map(references, part.values()))
    return set().union(*map(references, part)) if isinstance(part, list) else set()


@pytest.mark.slow
def test_cfn_lint_finds_nothing() -> None:
    tool = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([tool, PATH], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_is_small_enough_to_be_sent_as_it_is() -> None:
    assert len(PATH.read_bytes()) <= 51_200  # CloudFormation takes a larger one from a bucket only


def test_short_forms_are_read_as_what_they_are_short_for() -> None:
    text = "a: !Ref B\nb: !GetAtt C.D.E\nc: !If [X, !Sub '${Y}', 1]\nd: !Sub ['${Z}', {Z: !Ref B}]"
    assert endpoint.read(text) == {
        "a": {"Ref": "B"},
        "b": {"Fn::GetAtt": ["C", "D.E"]},
        "c": {"Fn::If": ["X", {"Fn::Sub": "${Y}"}, 1]},
        "d": {"Fn::Sub": ["${Z}", {"Z": {"Ref": "B"}}]},
    }


def test_every_parameter_is_described_checked_and_used() -> None:
    parameters = TEMPLATE["Parameters"]
    checks = {"AllowedPattern", "AllowedValues", "MinValue"}
    assert [name for name, one in parameters.items() if not checks & set(one)] == []
    assert [name for name, one in parameters.items() if len(one["Description"]) < 20] == []
    assert set(parameters) - references([RESOURCES, TEMPLATE["Conditions"]]) == set()
    groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    listed = [name for group in groups for name in group["Parameters"]]
    assert sorted(listed) == sorted(parameters)


def test_every_default_is_a_value_that_may_be_set() -> None:
    defaults = {
        name: str(one["Default"])
        for name, one in TEMPLATE["Parameters"].items()
        if "Default" in one
    }
    assert endpoint.settings(f"{name}={value}" for name, value in defaults.items()) == defaults
    assert set(TEMPLATE["Parameters"]) - set(defaults) == set(GIVEN)


@pytest.mark.slow
def test_the_role_may_nothing_everywhere_but_where_iam_knows_no_place() -> None:
    (policy,) = properties("Role", CapturePercentage="100")["Policies"]
    statements = policy["PolicyDocument"]["Statement"]
    everywhere = {one["Sid"]: one["Action"] for one in statements if one["Resource"] == "*"}
    assert everywhere == {
        "LogInToTheRegistry": "ecr:GetAuthorizationToken",
        "TellTheMetrics": "cloudwatch:PutMetricData",
    }
    actions = [action for one in statements for action in _listed(one["Action"])]
    assert [action for action in actions if "*" in action] == []
    wide = [one for part in statements for one in _listed(part["Resource"]) if "*" in one[:-1]]
    assert wide == []
    assert {one["Effect"] for one in statements} == {"Allow"}


def _listed(one: Any) -> list[str]:
    return one if isinstance(one, list) else [one]


def test_another_bundle_is_another_role_model_and_configuration_behind_the_same_endpoint() -> None:
    """Which properties cannot be changed in place, cfn-lint knows from CloudFormation's schemas."""
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    def replaced_by(name: str) -> set[str]:
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", RESOURCES[name]["Type"])
        fixed = {one.rpartition("/")[2] for one in schema.schema["createOnlyProperties"]}
        given = RESOURCES[name]["Properties"]
        return {key for key in fixed & set(given) if references(given[key]) & changing}

    changing = OF_A_BUNDLE | {"Role", "Model", "EndpointConfig"}
    assert {
        name: replaced_by(name) for name in ("Role", "Model", "EndpointConfig", "Endpoint")
    } == {
        "Role": {"Path"},
        "Model": {"ExecutionRoleArn", "PrimaryContainer"},
        "EndpointConfig": {"ProductionVariants"},
        "Endpoint": set(),
    }
    named = {"RoleName", "ModelName", "EndpointConfigName"}  # a name could not be had twice
    for name in ("Role", "Model", "EndpointConfig"):
        assert named & set(RESOURCES[name]["Properties"]) == set()


TOPIC = "arn:aws:sns:us-east-1:123456789012:operators"


@pytest.mark.slow
def test_the_alarms_are_those_that_cloudwatch_takes(aws: Aws) -> None:
    cloudwatch = aws.client("cloudwatch")
    alarms = [name for name, one in RESOURCES.items() if one["Type"] == "AWS::CloudWatch::Alarm"]
    for name in alarms:
        given = properties(name, AlarmTopic=TOPIC, LatencyMicroseconds="250000")
        cloudwatch.put_metric_alarm(**given)
    found = cloudwatch.describe_alarms(AlarmNamePrefix="shop-")["MetricAlarms"]
    keys = ("MetricName", "Threshold", "ComparisonOperator")
    assert {one["AlarmName"]: tuple(one[key] for key in keys) for one in found} == {
        "shop-server-errors": ("Invocation5XXErrors", 5.0, "GreaterThanOrEqualToThreshold"),
        "shop-latency": ("ModelLatency", 250000.0, "GreaterThanThreshold"),
        "shop-client-errors": ("Invocation4XXErrors", 100.0, "GreaterThanOrEqualToThreshold"),
    }
    variant = [{"Name": "EndpointName", "Value": "shop"}, {"Name": "VariantName", "Value": "all"}]
    for one in found:
        assert (one["Namespace"], one["Dimensions"]) == ("AWS/SageMaker", variant)
        assert (one["AlarmActions"], one["OKActions"]) == ([TOPIC], [TOPIC])
    assert "AlarmActions" not in properties(alarms[0])


@pytest.mark.slow
def test_autoscaling_is_what_the_service_takes_and_off_unless_asked_for(aws: Aws) -> None:
    scaling = aws.client("application-autoscaling")
    asked = {"MinInstances": "2", "MaxInstances": "6", "InvocationsPerInstance": "500"}
    target = properties("Scaling", **asked)
    scaling.register_scalable_target(**target)
    policy = properties("ScalingPolicy", **asked)
    place = {key: target[key] for key in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
    scaling.put_scaling_policy(**place, **policy)
    (found,) = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert found["ResourceId"] == "endpoint/shop/variant/all"
    assert found["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 500.0
    (found,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (found["MinCapacity"], found["MaxCapacity"]) == (2, 6)
    conditions = [one.get("Condition") for name, one in RESOURCES.items() if "Scal" in name]
    assert conditions == ["Scales", "Scales"]
    assert TEMPLATE["Conditions"]["Scales"] == {
        "Fn::Not": [{"Fn::Equals": [{"Ref": "MaxInstances"}, 0]}]
    }
    assert TEMPLATE["Parameters"]["MaxInstances"]["Default"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("traffic", ["ALL_AT_ONCE", "CANARY"])
def test_a_deployment_is_blue_and_green_and_ends_when_an_alarm_rings(traffic: str) -> None:
    """boto3 checks its form, by SageMaker's description of its own call."""
    import boto3
    from botocore.validate import validate_parameters

    raw = RESOURCES["Endpoint"]["Properties"]["DeploymentConfig"]
    alarms = raw["AutoRollbackConfiguration"]["Alarms"]
    assert alarms == [
        {"AlarmName": {"Ref": "ServerErrorsAlarm"}},
        {"AlarmName": {"Ref": "LatencyAlarm"}},
    ]
    names = [properties(one["AlarmName"]["Ref"])["AlarmName"] for one in alarms]
    statements = properties("Role")["Policies"][0]["PolicyDocument"]["Statement"]
    (seen,) = [one["Resource"] for one in statements if one and one["Sid"] == "SeeTheAlarms"]
    assert [one.rpartition(":")[2] for one in seen] == names
    given = properties("Endpoint", Traffic=traffic, BakeSeconds="120", MaxInstances="3")
    config = given["DeploymentConfig"]
    config["AutoRollbackConfiguration"]["Alarms"] = [{"AlarmName": "a"}, {"AlarmName": "b"}]
    call = boto3.client("sagemaker", "us-east-1").meta.service_model.operation_model(
        "UpdateEndpoint"
    )
    settings = ("EndpointName", "RetainAllVariantProperties", "ExcludeRetainedVariantProperties")
    asked = {name: given[name] for name in settings} | {"EndpointConfigName": "c"}
    validate_parameters(asked | {"DeploymentConfig": config}, call.input_shape)
    routing = config["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert (routing["Type"], routing["WaitIntervalInSeconds"]) == (traffic, 120)
    assert (given["EndpointName"], given["RetainAllVariantProperties"]) == ("shop", True)
    assert properties("Endpoint")["RetainAllVariantProperties"] is False
