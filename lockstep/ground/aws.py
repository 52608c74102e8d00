"""Errors of AWS's services, and of servers that speak their protocol, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lockstep.ground.errors import LockstepError

_KEYS = "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
_MAY = "use a key that may, or have this one allowed to."
_ENDED = "log in again, for the session has ended."
_MOVES = {
    "AccessDenied": _MAY,
    "AccessDeniedException": _MAY,
    "ExpiredToken": _ENDED,
    "ExpiredTokenException": _ENDED,
    "InvalidAccessKeyId": _KEYS,
    "InvalidClientTokenId": _KEYS,
    "NoSuchBucket": "make the bucket, or correct its name.",
    "SignatureDoesNotMatch": _KEYS,
    "UnrecognizedClientException": _KEYS,
}


@contextmanager
def told(thing: str, kind: type[LockstepError]) -> Iterator[None]:
    """Turn what boto3 raises into an error of a kind, in one line about the thing."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        EndpointConnectionError,
        NoCredentialsError,
    )

    try:
        yield
    except NoCredentialsError as error:
        text = "found no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        raise kind(f"{thing}: {text}") from error
    except EndpointConnectionError as error:
        text = "no server answers at this address; correct AWS_ENDPOINT_URL or AWS_DEFAULT_REGION."
        raise kind(f"{thing}: {error} {text}") from error
    except (BotoCoreError, ClientError, ValueError) as error:  # the last: an address that is none
        move = _MOVES.get(code_of(error), "fix that, then run the same command again.")
        raise kind(f"{thing}: {' '.join(str(error).split())}; {move}") from error


def code_of(error: Exception) -> str:
    """The code by which a service names its refusal; empty if it was no service that refused."""
    answer: dict[str, Any] = getattr(error, "response", {})
    return str(answer.get("Error", {}).get("Code", ""))
