"""A CloudFormation stack of ours: how it stands, what would change, changes to their end."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lockstep.ground.errors import DeploymentError
from lockstep.ground.watch import Watch
from lockstep.sagemaker.account import Account

_TAGS = [{"Key": "lockstep", "Value": "endpoint"}]  # by which a stack is known to be ours
_PAUSE = 3.0  # seconds between two looks; CloudFormation takes minutes
_DEAD = ("CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED")


@dataclass(frozen=True)
class State:
    """A stack as it stands."""

    id: str
    status: str
    reason: str
    parameters: dict[str, str]
    is_ours: bool


@dataclass(frozen=True)
class Change:
    """What would be done to a resource: Add, Modify or Remove; replaced by another one or not."""

    action: str
    resource: str
    type: str
    replacement: str


@dataclass(frozen=True)
class Outcome:
    """What became of a stack: created, updated, unchanged, deleted; or failed, and why."""

    action: str
    status: str
    reason: str = ""


@dataclass
class _Followed:
    status: str = ""
    first: str = ""  # the first reason of a failure
    after: str = field(default="", repr=False)  # the last event that was reported


class Stack:
    """A stack by its name; the watch gets each of its events.

    All methods raise DeploymentError if the account refuses.
    """

    def __init__(self, name: str, account: Account, watch: Watch):
        self.name, self._account, self._watch = name, account, watch
        self._client = account.client("cloudformation")

    def state(self, id: str = "") -> State | None:
        """The stack as it stands; None if there is none."""
        from botocore.exceptions import ClientError

        with self._told():
            try:
                (found,) = self._client.describe_stacks(StackName=id or self.name)["Stacks"]
            except ClientError as error:
                if "does not exist" in str(error):
                    return None
                raise
        parameters = {
            one["ParameterKey"]: one["ParameterValue"] for one in found.get("Parameters", ())
        }
        return State(
            found["StackId"],
            found["StackStatus"],
            found.get("StackStatusReason", ""),
            parameters,
            _TAGS[0] in found.get("Tags", ()),
        )

    def ready(self) -> State | None:
        """The stack as it stands when nobody changes it any more; None if there is none.

        Waits for a change that is under way. Raises DeploymentError if it cannot be changed, for
        what it failed at, or because it is not ours.
        """
        state = self.state()
        if state and state.status.endswith("_IN_PROGRESS") and state.status != _REVIEWED:
            self._refuse_other(state)
            self._watch.say(f"{self.name}: is {state.status}; waiting for its end")
            self._follow(state.id, self._last_event(state.id))
            state = self.state()
        if state is None:
            return None
        if state.status == _REVIEWED or state.status in _DEAD:
            raise DeploymentError(
                f"{self.name}: is {state.status}, from which nothing can be updated; delete it "
                f"first (`invoke deploy --delete --stack {self.name}`)."
            )
        self._refuse_other(state)
        if state.status.endswith("_FAILED"):
            raise DeploymentError(
                f"{self.name}: is {state.status}; expected one at rest: `aws cloudformation "
                f"continue-update-rollback --stack-name {self.name}`, or delete it."
            )
        return state

    def preview(
        self, state: State | None, template: str, parameters: dict[str, str]
    ) -> list[Change] | None:
        """What a deployment would change, asked by a change set that is deleted again.

        None if it would do nothing.
        """
        if self._is_as(state, template, parameters):
            return None
        name = f"lockstep-{uuid.uuid4().hex}"
        words = self._words(template, parameters)
        with self._told():
            made = self._client.create_change_set(
                ChangeSetName=name, ChangeSetType="UPDATE" if state else "CREATE", **words
            )
            try:
                found = self._described(made["Id"])
            finally:
                self._client.delete_change_set(ChangeSetName=made["Id"], StackName=self.name)
                if state is None:  # a change set for a stack that is not there makes an empty one
                    self._client.delete_stack(StackName=made["StackId"])
                    while (one := self.state(made["StackId"])) and "_IN_" in one.status:
                        time.sleep(_PAUSE)
        return found

    def deploy(self, state: State | None, template: str, parameters: dict[str, str]) -> Outcome:
        """Create the stack, or update it; when that fails, wait until it is rolled back."""
        from botocore.exceptions import ClientError

        if state and self._is_as(state, template, parameters):
            return Outcome("unchanged", state.status)
        words = self._words(template, parameters)
        after = self._last_event(state.id) if state else ""
        with self._told():
            try:
                if state:
                    made = self._client.update_stack(**words)
                else:
                    made = self._client.create_stack(OnFailure="ROLLBACK", **words)
            except ClientError as error:
                if state and "No updates are to be performed" in str(error):
                    return Outcome("unchanged", state.status)
                raise
        followed = self._follow(made["StackId"], after)
        if followed.status == ("UPDATE_COMPLETE" if state else "CREATE_COMPLETE"):
            return Outcome("updated" if state else "created", followed.status)
        return Outcome("failed", followed.status, followed.first)

    def delete(self) -> Outcome:
        """Delete the stack and wait until it is gone.

        Raises DeploymentError if there is none, or it is not ours.
        """
        if (state := self.state()) is None:
            raise DeploymentError(
                f"{self.name}: no such stack in {self._account.region}; correct --stack "
                "NAME or AWS_DEFAULT_REGION."
            )
        if state.status != _REVIEWED:  # which has no resources, nor its tags yet
            self._refuse_other(state)
        after = self._last_event(state.id)
        with self._told():
            self._client.delete_stack(StackName=state.id)
        followed = self._follow(state.id, after)
        if followed.status == "DELETE_COMPLETE":
            return Outcome("deleted", followed.status)
        return Outcome("failed", followed.status, followed.first)

    def endpoint(self) -> str:
        """The name of the endpoint that the stack has made."""
        with self._told():
            found = self._client.describe_stack_resource(
                StackName=self.name, LogicalResourceId="Endpoint"
            )
        # CloudFormation knows an endpoint by its whole address, .../NAME.
        return str(found["StackResourceDetail"]["PhysicalResourceId"]).rpartition("/")[2]

    def _is_as(self, state: State | None, template: str, parameters: dict[str, str]) -> bool:
        """Whether it stands with exactly this template and these parameters."""
        if state is None or state.parameters != parameters:
            return False
        with self._told():
            found = self._client.get_template(StackName=state.id, TemplateStage="Original")
        return bool(found["TemplateBody"] == template)

    def _words(self, template: str, parameters: dict[str, str]) -> dict[str, Any]:
        listed = [
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ]
        return {
            "StackName": self.name,
            "TemplateBody": template,
            "Parameters": listed,
            "Capabilities": ["CAPABILITY_IAM"],
            "Tags": _TAGS,
        }

    def _described(self, change_set: str) -> list[Change] | None:
        while True:
            found = self._client.describe_change_set(ChangeSetName=change_set)
            if not found["Status"].endswith(("_IN_PROGRESS", "_PENDING")):
                break
            time.sleep(_PAUSE)
        if found["Status"] == "FAILED":
            reason = found.get("StatusReason", "")
            if "didn't contain changes" in reason or "No updates" in reason:
                return None
            raise DeploymentError(f"{self.name}: cannot be changed so: {reason}")
        changes = list(found["Changes"])
        while token := found.get("NextToken"):
            found = self._client.describe_change_set(ChangeSetName=change_set, NextToken=token)
            changes += found["Changes"]
        resources = [change["ResourceChange"] for change in changes]
        return [
            Change(
                one["Action"],
                one["LogicalResourceId"],
                one["ResourceType"],
                one.get("Replacement", ""),
            )
            for one in resources
        ]

    def _follow(self, id: str, after: str) -> _Followed:
        """Report the events after a certain one until nothing is in progress."""
        found = _Followed(after=after)
        while True:
            state = self.state(id)
            for event in self._events(id, found.after):
                found.after = event["EventId"]
                self._tell(event, found)
            found.status = state.status if state else "DELETE_COMPLETE"
            if not found.status.endswith("_IN_PROGRESS"):
                found.first = found.first or (state.reason if state else "")
                return found
            time.sleep(_PAUSE)

    def _tell(self, event: dict[str, Any], found: _Followed) -> None:
        status, reason = event["ResourceStatus"], event.get("ResourceStatusReason", "")
        reason = " ".join(reason.split())
        line = f"{event['LogicalResourceId']} {status}" + (f": {reason}" if reason else "")
        if not status.endswith("_FAILED"):
            return self._watch.doing(line)
        self._watch.say(line)
        # What was begun beside the one that failed is cancelled, which explains nothing.
        if not found.first and reason and "cancelled" not in reason.lower():
            found.first = f"{event['LogicalResourceId']}: {reason}"

    def _events(self, id: str, after: str) -> list[dict[str, Any]]:
        """The events after a certain one, oldest first."""
        found: list[dict[str, Any]] = []
        with self._told():
            for event in self._newest_first(id):
                if event["EventId"] == after:
                    break
                found.append(event)
        return found[::-1]

    def _newest_first(self, id: str) -> Iterator[dict[str, Any]]:
        for page in self._client.get_paginator("describe_stack_events").paginate(StackName=id):
            yield from page["StackEvents"]

    def _last_event(self, id: str) -> str:
        with self._told():
            return next((str(event["EventId"]) for event in self._newest_first(id)), "")

    def _refuse_other(self, state: State) -> None:
        if not state.is_ours:
            raise DeploymentError(
                f"{self.name}: is a stack that `invoke deploy` did not make (it has no tag "
                "lockstep=endpoint); nothing was changed. Name another one: --stack NAME."
            )

    def _told(self) -> Any:
        return self._account.told(f"stack {self.name}")


_REVIEWED = "REVIEW_IN_PROGRESS"
