"""An AWS account, configured by boto3's variables and files; its errors in one line."""

import os
from contextlib import AbstractContextManager
from typing import Any

from lockstep.ground import aws
from lockstep.ground.errors import DeploymentError


class Account:
    """Clients of an account's services in one region.

    Raises DeploymentError if no region is named, or the profile that is named is not there.
    """

    def __init__(self) -> None:
        try:
            import boto3
        except ImportError as error:
            text = "boto3 is not installed; ./workbench installs the locked packages."
            raise DeploymentError(f"deploy: {text}") from error
        with self.told("deploy"):
            # A new session: the default one keeps the credentials that it saw first.
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

    def told(self, thing: str) -> AbstractContextManager[None]:
        """Turn what boto3 raises into a DeploymentError of one line about the thing."""
        return aws.told(thing, DeploymentError)
