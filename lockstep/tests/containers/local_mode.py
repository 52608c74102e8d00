"""Drives SageMaker's own local mode: a training job, then an endpoint with the model it left.

It runs in an environment that has sagemaker-core; what to do comes as JSON, what came of it leaves
as JSON: ``{"image", "folder", "port", "hosts", "hyperparameters", "questions"}`` to
``{"model", "answers"}``.
"""

import base64
import json
import sys
from typing import Any

import boto3
from sagemaker.core.local.local_session import LocalSession

ROLE = "arn:aws:iam::123456789012:role/any"
EXAMPLES = {"LOCKSTEP_PROJECT": "lockstep.examples"}  # whatever the project in the image holds


def main(wanted: dict[str, Any]) -> dict[str, Any]:
    """The archive that the job left, and status and body of each answer."""
    session = LocalSession(boto3.Session("key", "secret", region_name="eu-west-1"))
    session.config = {"local": {"container_root": wanted["folder"], "serving_port": wanted["port"]}}
    session.sagemaker_runtime_client.config = session.config
    client, runtime = session.sagemaker_client, session.sagemaker_runtime_client
    client.create_training_job(
        TrainingJobName="job",
        RoleArn=ROLE,
        AlgorithmSpecification={"TrainingImage": wanted["image"], "TrainingInputMode": "File"},
        OutputDataConfig={"S3OutputPath": ""},
        ResourceConfig={"InstanceType": "local", "InstanceCount": wanted["hosts"]},
        HyperParameters=wanted["hyperparameters"],
        Environment=EXAMPLES,
    )
    model = client.describe_training_job("job")["ModelArtifacts"]["S3ModelArtifacts"]
    if not wanted["questions"]:
        return {"model": model, "answers": []}
    container = {"Image": wanted["image"], "ModelDataUrl": model, "Environment": EXAMPLES}
    client.create_model("model", container)
    variant = {"ModelName": "model", "InstanceType": "local", "InitialInstanceCount": 1}
    client.create_endpoint_config("config", [variant | {"VariantName": "AllTraffic"}])
    client.create_endpoint("endpoint", "config")
    answers = []
    try:
        for kind, body in wanted["questions"]:
            found = runtime.invoke_endpoint(base64.b64decode(body), "endpoint", kind)
            content = found["Body"].read().decode()
            answers.append([found["ResponseMetadata"]["HTTPStatusCode"], content])
    finally:
        client.delete_endpoint("endpoint")
    return {"model": model, "answers": answers}


if __name__ == "__main__":
    told, sys.stdout = sys.stdout, sys.stderr  # the SDK prints what the containers say
    print(json.dumps(main(json.load(sys.stdin))), file=told)
