"""Deployments that fail, are waited for, or are gone on with.

moto rolls nothing back, so CloudFormation is acted here by a server of a few lines that says, look
by look, what it is told to: the states and events that CloudFormation's documentation gives for
each case. boto3 and all of ours are real.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import pytest

from lockstep.ground.errors import DeploymentError
from lockstep.ground.watch import Watch
from lockstep.records.run import Run
from lockstep.sagemaker import stack as stacks
from lockstep.sagemaker.account import Account
from lockstep.sagemaker.stack import Change, Outcome, Stack
from lockstep.tests.clouds import Cloud
from lockstep.tests.conftest import Call

pytestmark = pytest.mark.slow  # an account on moto's server

ID = "arn:aws:cloudformation:us-east-1:123456789012:stack/shop/1"
PARAMETERS = {"Run": "earlier"}
Look = tuple[str, list[str]]  # a status, and the events until then: "RESOURCE STATUS reason"


@dataclass
class Play:
    """What CloudFormation says: a look for each time that it is asked for the stack."""

    looks: list[Look]
    is_ours: bool = True
    refusals: dict[str, str] = field(default_factory=dict)
    change_set: str = ""
    asked: list[str] = field(default_factory=list)
    at: int = -1

    def answer(self, action: str) -> tuple[int, str]:
        """Status and body for a call."""
        self.asked.append(action)
        if refusal := self.refusals.get(action):
            return _refused(refusal)
        if action == "DescribeStacks":
            self.at = min(self.at + 1, len(self.looks) - 1)
            if not self.looks[self.at][0]:
                return _refused("Stack with id shop does not exist")
            return _answered(action, self._stack())
        if action == "DescribeStackEvents":
            told = [event for look in self.looks[: self.at + 1] for event in look[1]]
            events = [_event(number, *one.split(" ", 2)) for number, one in enumerate(told)]
            return _answered(action, f"<StackEvents>{''.join(events[::-1])}</StackEvents>")
        if action == "GetTemplate":
            return _answered(action, "<TemplateBody>earlier</TemplateBody>")
        if action == "DescribeChangeSet":
            return _answered(action, self.change_set)
        return _answered(action, f"<StackId>{ID}</StackId><Id>{ID}</Id>")

    def _stack(self) -> str:
        tag = "<member><Key>lockstep</Key><Value>endpoint</Value></member>" if self.is_ours else ""
        listed = "".join(
            f"<member><ParameterKey>{key}</ParameterKey><ParameterValue>{value}</ParameterValue></member>"
            for key, value in PARAMETERS.items()
        )
        return (
            f"<Stacks><member><StackId>{ID}</StackId><StackName>shop</StackName>"
            f"<CreationTime>2026-11-21T00:00:00Z</CreationTime><Tags>{tag}</Tags>"
            f"<Parameters>{listed}</Parameters>"
            f"<StackStatus>{self.looks[self.at][0]}</StackStatus></member></Stacks>"
        )


def _event(number: int, resource: str, status: str, reason: str = "") -> str:
    told = f"<ResourceStatusReason>{escape(reason)}</ResourceStatusReason>" if reason else ""
    return (
        f"<member><EventId>{number}</EventId><StackId>{ID}</StackId><StackName>shop</StackName>"
        f"<Timestamp>2026-11-21T00:00:00Z</Timestamp><LogicalResourceId>{resource}"
        f"</LogicalResourceId><ResourceStatus>{status}</ResourceStatus>{told}</member>"
    )


def _answered(action: str, body: str) -> tuple[int, str]:
    return 200, f"<{action}Response><{action}Result>{body}</{action}Result></{action}Response>"


def _refused(text: str) -> tuple[int, str]:
    error = f"<Type>Sender</Type><Code>ValidationError</Code><Message>{text}</Message>"
    return 400, f"<ErrorResponse><Error>{error}</Error></ErrorResponse>"


class Told(Watch):
    """Who keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    doing = say


Playing = Callable[..., tuple[Stack, Play, Told]]


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Playing]:
    """A stack named shop, in a play of these looks."""
    plays: list[Play] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            words = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            status, body = plays[-1].answer(words["Action"][0])
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(stacks, "_PAUSE", 0.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def play(*looks: Look, **more: Any) -> tuple[Stack, Play, Told]:
        plays.append(Play(list(looks), **more))
        told = Told()
        return Stack("shop", Account(), told), plays[-1], told

    yield play
    server.shutdown()
    thread.join()
    server.server_close()


RESTING: Look = ("UPDATE_COMPLETE", ["shop UPDATE_COMPLETE", "Endpoint CREATE_FAILED of long ago"])
NEW = {"Run": "later"}


def test_an_update_that_fails_is_waited_for_until_it_is_rolled_back_and_says_why(
    playing: Playing,
) -> None:
    reason = "Alarm shop-ServerErrorsAlarm is in ALARM, so the old endpoint goes on"
    stack, _, told = playing(
        RESTING,
        ("UPDATE_IN_PROGRESS", ["shop UPDATE_IN_PROGRESS", "Model CREATE_COMPLETE"]),
        (
            "UPDATE_ROLLBACK_IN_PROGRESS",
            [
                "Log UPDATE_FAILED Resource update cancelled",
                f"Endpoint UPDATE_FAILED {reason}",
                "shop UPDATE_ROLLBACK_IN_PROGRESS",
                "Role UPDATE_FAILED and this comes of it",
            ],
        ),
        ("UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS", ["Model DELETE_IN_PROGRESS"]),
        ("UPDATE_ROLLBACK_COMPLETE", ["shop UPDATE_ROLLBACK_COMPLETE"]),
    )
    outcome = stack.deploy(stack.ready(), "template", NEW)
    assert outcome == Outcome("failed", "UPDATE_ROLLBACK_COMPLETE", f"Endpoint: {reason}")
    assert told.lines == [
        "shop UPDATE_IN_PROGRESS",
        "Model CREATE_COMPLETE",
        "Log UPDATE_FAILED: Resource update cancelled",
        f"Endpoint UPDATE_FAILED: {reason}",
        "shop UPDATE_ROLLBACK_IN_PROGRESS",
        "Role UPDATE_FAILED: and this comes of it",
        "Model DELETE_IN_PROGRESS",
        "shop UPDATE_ROLLBACK_COMPLETE",
    ]


def test_a_creation_that_fails_is_waited_for_and_must_be_deleted_before_the_next(
    playing: Playing,
) -> None:
    failed = ("ROLLBACK_COMPLETE", ["Role DELETE_COMPLETE"])
    stack, play, _ = playing(
        ("", []),
        ("CREATE_IN_PROGRESS", ["Role CREATE_COMPLETE"]),
        ("ROLLBACK_IN_PROGRESS", ["Model CREATE_FAILED Could not access model data"]),
        failed,
    )
    outcome = stack.deploy(stack.ready(), "template", NEW)
    reason = "Model: Could not access model data"
    assert outcome == Outcome("failed", "ROLLBACK_COMPLETE", reason)
    assert "CreateStack" in play.asked
    with pytest.raises(
        DeploymentError, match=r"is ROLLBACK_COMPLETE.*deploy --delete --stack shop"
    ):
        stack.ready()


def test_a_change_that_is_under_way_is_waited_for_before_the_next(playing: Playing) -> None:
    stack, play, told = playing(
        ("UPDATE_IN_PROGRESS", ["Model CREATE_IN_PROGRESS"]),
        ("UPDATE_IN_PROGRESS", ["Model CREATE_COMPLETE"]),
        ("UPDATE_COMPLETE", ["shop UPDATE_COMPLETE"]),
    )
    state = stack.ready()
    assert state and (state.status, state.parameters) == ("UPDATE_COMPLETE", PARAMETERS)
    assert told.lines == [
        "shop: is UPDATE_IN_PROGRESS; waiting for its end",
        "Model CREATE_COMPLETE",
        "shop UPDATE_COMPLETE",
    ]
    assert stack.deploy(state, "earlier", PARAMETERS) == Outcome("unchanged", "UPDATE_COMPLETE")
    assert "UpdateStack" not in play.asked


def test_what_cloudformation_finds_to_be_no_change_is_none(playing: Playing) -> None:
    stack, *_ = playing(RESTING, refusals={"UpdateStack": "No updates are to be performed."})
    assert stack.deploy(stack.ready(), "# a remark", PARAMETERS).action == "unchanged"
    reason = "The submitted information didn't contain changes."
    said = f"<Status>FAILED</Status><StatusReason>{reason}</StatusReason>"
    stack, play, _ = playing(RESTING, change_set=said)
    assert stack.preview(stack.ready(), "# a remark", PARAMETERS) is None
    assert play.asked[-1] == "DeleteChangeSet"


def test_a_preview_says_what_is_replaced_and_that_a_template_is_refused(playing: Playing) -> None:
    change = "<Action>Modify</Action><LogicalResourceId>Model</LogicalResourceId>"
    change += "<ResourceType>AWS::SageMaker::Model</ResourceType><Replacement>True</Replacement>"
    said = f"<Changes><member><ResourceChange>{change}</ResourceChange></member></Changes>"
    stack, *_ = playing(RESTING, change_set=f"<Status>CREATE_COMPLETE</Status>{said}")
    found = stack.preview(stack.ready(), "template", NEW)
    assert found == [Change("Modify", "Model", "AWS::SageMaker::Model", "True")]
    said = "<Status>FAILED</Status><StatusReason>Parameter Run is bad</StatusReason>"
    stack, play, _ = playing(RESTING, change_set=said)
    with pytest.raises(DeploymentError, match="shop: cannot be changed so: Parameter Run is bad"):
        stack.preview(stack.ready(), "template", NEW)
    assert play.asked[-1] == "DeleteChangeSet"


def test_a_stack_that_cannot_be_updated_says_what_to_do(playing: Playing) -> None:
    wanted = {
        "ROLLBACK_FAILED": "delete it first",
        "CREATE_FAILED": "delete it first",
        "DELETE_FAILED": "delete it first",
        "REVIEW_IN_PROGRESS": "delete it first",
        "UPDATE_ROLLBACK_FAILED": "aws cloudformation continue-update-rollback --stack-name shop",
    }
    for status, text in wanted.items():
        stack, *_ = playing((status, []))
        with pytest.raises(DeploymentError, match=f"shop: is {status}.*{text}"):
            stack.ready()


def test_nobody_waits_for_a_stack_that_is_not_ours(playing: Playing) -> None:
    under_way: tuple[str, list[dict[str, Any]]] = ("UPDATE_IN_PROGRESS", [])
    stack, play, _ = playing(under_way, under_way, ("UPDATE_COMPLETE", []), is_ours=False)
    with pytest.raises(DeploymentError, match="did not make"):
        stack.ready()
    with pytest.raises(DeploymentError, match="did not make"):
        stack.delete()
    assert set(play.asked) == {"DescribeStacks"}


@pytest.mark.slow
def test_the_verb_tells_why_and_what_answers_now_with_exit_code_1(
    cloud: Cloud, runs: list[Run], playing: Playing, call: Call
) -> None:
    """S3 and ECR are moto's here."""
    fails = [
        ("UPDATE_IN_PROGRESS", ["Endpoint UPDATE_FAILED The container did not answer /ping"]),
        ("UPDATE_ROLLBACK_COMPLETE", ["shop UPDATE_ROLLBACK_COMPLETE"]),
    ]
    playing(RESTING, *fails)
    code, out, err = call(*cloud.words(runs[0], "--stack=shop"))
    why = "Endpoint: The container did not answer /ping"
    assert (code, out) == (1, "")
    assert (
        err.splitlines()[-1]
        == f"error: stack shop: {why}; it was rolled back, and answers as before."
    )
    playing(
        ("", []),
        ("ROLLBACK_COMPLETE", ["Endpoint CREATE_FAILED The container did not answer /ping"]),
    )
    code, out, err = call(*cloud.words(runs[0], "--stack=shop", "--json"))
    told = json.loads(out)
    assert (code, told["action"], told["reason"], told["endpoint"]) == (1, "failed", why, None)
    assert "then `invoke deploy --delete --stack shop` and deploy anew." in err.splitlines()[-1]


def test_a_deletion_that_fails_is_told_with_exit_code_1(playing: Playing, call: Call) -> None:
    reason = "The endpoint is being updated"
    playing(
        RESTING,
        RESTING,
        ("DELETE_IN_PROGRESS", ["Log DELETE_COMPLETE"]),
        ("DELETE_FAILED", [f"Endpoint DELETE_FAILED {reason}"]),
    )
    code, out, err = call("deploy", "--delete", "--stack", "shop")
    assert (code, out, err.splitlines()[-1]) == (
        1,
        "",
        f"error: stack shop: Endpoint: {reason}; it is DELETE_FAILED, fix that and run the same "
        "command again.",
    )


def test_what_the_account_refuses_is_reported_in_one_line(playing: Playing, call: Call) -> None:
    playing(RESTING, refusals={"DeleteStack": "shop is protected\n  from that"})
    code, _, err = call("deploy", "--delete", "--stack", "shop")
    assert (code, err.count("\n"), "shop is protected from that" in err) == (2, 1, True)
