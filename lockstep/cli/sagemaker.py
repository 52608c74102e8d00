"""The verb that deploys a run to SageMaker and deletes the deployment."""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from lockstep.cli.publishing import add_what, bundled, signed
from lockstep.cli.verbs import Verbs
from lockstep.ground.console import show
from lockstep.ground.errors import DeploymentError

if TYPE_CHECKING:
    from lockstep.sagemaker.endpoint import Plan
    from lockstep.sagemaker.stack import Outcome, Stack, State

# Parameters that follow from the bundle and the image, and would not fit a line.
_LONG = ("BundleDigest", "ManifestDigest", "ModelKey", "Repository")


def add_to(verbs: Verbs) -> None:
    """Add deploy."""
    verb = verbs.add(deploy, runs=True)
    add_what(verb, nargs="?")
    text = "the CloudFormation stack, and the endpoint that it makes"
    verb.add_argument("--stack", metavar="NAME", required=True, help=text)
    verb.add_argument("--bucket", help="where the bundle is put, of the same region")
    text = "the serving image in ECR, by tag or digest (default: LOCKSTEP_ECR_IMAGE)"
    verb.add_argument("--image", metavar="URI", help=text)
    text = "a parameter of lockstep/sagemaker/stack.yaml; may be repeated"
    verb.add_argument("--set", action="append", default=[], metavar="PARAMETER=VALUE", help=text)
    verb.add_argument("--dry-run", action="store_true", help="only show what would change")
    text = "delete the stack; the bundles in the bucket stay"
    verb.add_argument("--delete", action="store_true", help=text)


def deploy(options: argparse.Namespace) -> int:
    """Deploy a finished run to SageMaker by a CloudFormation stack; exit 1 if that fails."""
    from lockstep.ground import console
    from lockstep.ground.storage import open_storage
    from lockstep.sagemaker import endpoint
    from lockstep.sagemaker.account import Account
    from lockstep.sagemaker.stack import Stack
    from lockstep.sagemaker.target import Image, bucket_name, refuse_bucket, stack_name

    name = stack_name(options.stack)
    if options.delete:
        return _delete(options, name)
    address = _refuse_incomplete(options)
    bucket, chosen = bucket_name(options.bucket), endpoint.settings(options.set)
    account, watch = Account(), console.watch()
    try:
        image = Image.read(address, account)
        refuse_bucket(bucket, account)
        place = {"ModelBucket": bucket, "Image": image.pinned(account)}
        place["Repository"] = image.repository
        stack = Stack(name, account, watch)
        state = stack.ready()
        watch.end()  # the bundle and its upload are shown on their own
        made, storage = bundled(options), open_storage(f"s3://{bucket}")
        before = state.parameters if state else {}
        plan = endpoint.plan(made, storage, place, chosen, before, watch)
        if options.dry_run:
            return _foretell(options, stack, state, plan)
        if plan.uploads:
            endpoint.upload(made, storage, plan.key, watch)
        outcome = stack.deploy(state, endpoint.template(), plan.parameters)
    finally:
        watch.end()
    code = _tell(options, stack, outcome, _facts(plan) | {"uploaded": plan.uploads})
    if code == 0 and not options.json:
        show(signed(made))
    return code


def _refuse_incomplete(options: argparse.Namespace) -> str:
    """The image's address; DeploymentError if that, the run or the bucket is not named."""
    from lockstep.sagemaker.target import IMAGE

    if not options.run:
        raise DeploymentError("deploy: no run is named; give RUN (`invoke runs` lists all).")
    if not options.bucket:
        raise DeploymentError("deploy: no bucket is named; give --bucket BUCKET.")
    if not (address := options.image or os.environ.get(IMAGE)):
        raise DeploymentError(
            f"deploy: no image is named; give --image URI or set {IMAGE} (`invoke image push "
            "ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME --stage sagemaker` brings one to ECR)."
        )
    return str(address)


def _foretell(
    options: argparse.Namespace, stack: "Stack", state: "State | None", plan: "Plan"
) -> int:
    from lockstep.ground.console import table
    from lockstep.sagemaker import endpoint

    changes = stack.preview(state, endpoint.template(), plan.parameters)
    before = state.parameters if state else {}
    differ = {
        name: {"before": before.get(name, ""), "after": plan.parameters.get(name, "")}
        for name in sorted({*before, *plan.parameters})
        if before.get(name, "") != plan.parameters.get(name, "")
    }
    action = "nothing" if changes is None else "update" if state else "create"
    facts = _facts(plan)
    if options.json:
        told = {"stack": stack.name, "would": action, "uploads": plan.uploads, **facts}
        told["changes"] = [vars(change) for change in changes or ()]
        show(json.dumps(told | {"parameters": differ}, indent=2))
        return 0
    show(f"stack {stack.name}: would " + ("change nothing" if action == "nothing" else action))
    show(f"bundle {facts['bundle']}: " + ("would upload" if plan.uploads else "is there"))
    if changes:
        rows = [[one.action, one.resource, one.type, one.replacement] for one in changes]
        table(["action", "resource", "type", "replaced"], rows)
    if rows := [[name, *pair.values()] for name, pair in differ.items() if name not in _LONG]:
        table(["parameter", "before", "after"], rows)
    show("dry run: nothing was uploaded, nothing was changed")
    return 0


def _facts(plan: "Plan") -> dict[str, Any]:
    told = plan.parameters
    return {
        "bundle": f"s3://{told['ModelBucket']}/{plan.key}",
        "sha256": told["BundleDigest"],
        "signed": told["Signed"] == "yes",
        "image": told["Image"],
        "run": told["Run"],
        "version": told["Version"],
    }


def _tell(
    options: argparse.Namespace, stack: "Stack", outcome: "Outcome", facts: dict[str, Any]
) -> int:
    failed = outcome.action == "failed"
    endpoint = None if failed else stack.endpoint()
    if options.json:
        show(
            json.dumps(
                {"stack": stack.name, "endpoint": endpoint, **vars(outcome), **facts}, indent=2
            )
        )
    if failed:
        show(
            f"error: stack {stack.name}: {outcome.reason}; {_move(outcome, stack)}", file=sys.stderr
        )
        return 1
    if not options.json:
        show(f"stack {stack.name} {outcome.action}\nendpoint {endpoint}")
        show(f"bundle {facts['bundle']}\nrun {facts['run']}, version {facts['version']}")
    return 0


def _move(outcome: "Outcome", stack: "Stack") -> str:
    if outcome.status == "UPDATE_ROLLBACK_COMPLETE":
        return "it was rolled back, and answers as before."
    delete = f"`invoke deploy --delete --stack {stack.name}`"
    if outcome.status == "ROLLBACK_COMPLETE":
        return f"everything created was removed; fix that, then {delete} and deploy again."
    return f"it is {outcome.status}, look at it in CloudFormation, or {delete}."


def _delete(options: argparse.Namespace, name: str) -> int:
    from lockstep.ground import console
    from lockstep.sagemaker.account import Account
    from lockstep.sagemaker.stack import Stack

    words = ("run", "bucket", "image", "set", "dry_run")
    if given := [word.replace("_", "-") for word in words if vars(options)[word]]:
        raise DeploymentError(
            f"deploy --delete: found {given[0]} as well, expected --stack NAME alone."
        )
    watch = console.watch()
    try:
        stack = Stack(name, Account(), watch)
        state = stack.state()
        outcome = stack.delete()
    finally:
        watch.end()
    before = state.parameters if state else {}
    kept = f"s3://{before['ModelBucket']}/models/" if "ModelBucket" in before else None
    if options.json:
        show(json.dumps({"stack": name, **vars(outcome), "kept": kept}, indent=2))
    if outcome.action == "failed":
        show(
            f"error: stack {name}: {outcome.reason}; it is {outcome.status}, fix that and run the "
            "same command again.",
            file=sys.stderr,
        )
        return 1
    if not options.json:
        show(f"stack {name} deleted" + (f"\nits bundles stay in {kept}" if kept else ""))
    return 0
