"""An AWS account, as boto3's own variables and files name it; its refusals, told in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from project.errors import DeploymentError

_AGAIN = "mend that, then run the same command again."
_CREDENTIALS = "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
_MOVES = {
    "AccessDenied": "use a key that may, or have this one allowed to.",
    "AccessDeniedException": "use a key that may, or have this one allowed to.",
    "ExpiredToken": "log in again, for the session has ended.",
    "ExpiredTokenException": "log in again, for the session has ended.",
    "InvalidClientTokenId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
}


class Account:
    """Clients of an account's services in one region.

    Raises DeploymentError if no region is named, or the profile that is named is not there.
    """

    def __init__(self) -> None:
        try:
            import boto3
        except ImportError as error:
            text = "boto3 is not installed; ./workbench brings what is locked."
            raise DeploymentError(f"deploy: {text}") from error
        with self.told("deploy"):
            # A session of its own: the default one keeps the credentials that it saw first.
            self._session: Any = boto3.session.Session()
            region = self._session.region_name or os.environ.get("AWS_REGION")
        if not region:
            raise DeploymentError("deploy: found no region; set AWS_DEFAULT_REGION.")
        self.region: str = region

    def client(self, service: str) -> Any:
        """boto3's client of a service, patient with throttling."""
        from botocore.config import Config

        retries = {"mode": "standard", "max_attempts": 6}
        config = Config(connect_timeout=10, read_timeout=60, retries=retries)
        with self.told(service):
            return self._session.client(service, region_name=self.region, config=config)

    @contextmanager
    def told(self, thing: str) -> Iterator[None]:
        """Turn what boto3 raises into a DeploymentError of one line about the thing."""
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
            raise DeploymentError(f"{thing}: {text}") from error
        except EndpointConnectionError as error:
            text = "no server answers there; correct AWS_ENDPOINT_URL or AWS_DEFAULT_REGION."
            raise DeploymentError(f"{thing}: {error}: {text}") from error
        except (BotoCoreError, ClientError, ValueError) as error:
            move = _MOVES.get(code_of(error), _AGAIN)
            raise DeploymentError(f"{thing}: {' '.join(str(error).split())}; {move}") from error


def code_of(error: Exception) -> str:
    """The code by which a service names its refusal; empty if it was no service that refused."""
    answer: dict[str, Any] = getattr(error, "response", {})
    return str(answer.get("Error", {}).get("Code", ""))
