"""Where an endpoint is made: the names of stack, bucket and image, and whether they are there."""

import re
from dataclasses import dataclass

from lockstep.ground.aws import code_of
from lockstep.ground.errors import DeploymentError
from lockstep.sagemaker.account import Account

IMAGE = "LOCKSTEP_ECR_IMAGE"
_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?"
    r"/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))"
)
_STACK = re.compile(r"[A-Za-z](-*[A-Za-z0-9]){0,62}")  # it names the endpoint, which has 63 letters
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def stack_name(text: str) -> str:
    """A stack's name, if it can also be an endpoint's. Raises DeploymentError if not."""
    if _STACK.fullmatch(text):
        return text
    raise DeploymentError(
        f"--stack {text}: is no name, expected letters, digits and single hyphens between them, a "
        "letter first, 63 at most."
    )


def bucket_name(text: str) -> str:
    """A bucket's name, without s3:// before it. Raises DeploymentError if it is none."""
    if _BUCKET.fullmatch(found := text.removeprefix("s3://").rstrip("/")):
        return found
    raise DeploymentError(f"--bucket {text}: is no bucket's name, expected as my-models.")


def refuse_bucket(name: str, account: Account) -> None:
    """Raise DeploymentError if a bucket is not there, not for us, or in another region."""
    from botocore.exceptions import ClientError

    s3 = account.client("s3")
    with account.told(f"s3://{name}"):
        try:
            region = s3.head_bucket(Bucket=name).get("BucketRegion", account.region)
        except ClientError as error:
            if code_of(error) == "404":
                raise DeploymentError(
                    f"s3://{name}: no such bucket; create it, or correct --bucket."
                ) from error
            if code_of(error) == "403":
                raise DeploymentError(
                    f"s3://{name}: is not for this key; use one that may, or correct --bucket."
                ) from error
            raise
    if region != account.region:
        raise DeploymentError(
            f"s3://{name}: lies in {region}, expected {account.region}, where the endpoint is made;"
            " name another bucket, or set AWS_DEFAULT_REGION."
        )


@dataclass(frozen=True)
class Image:
    """An image in ECR: its repository, and either a tag or a digest."""

    account: str
    region: str
    name: str
    text: str
    tag: str | None

    @classmethod
    def read(cls, text: str, account: Account) -> "Image":
        """The image of an address. Raises DeploymentError if no endpoint can use it."""
        if not (found := _IMAGE.fullmatch(text)):
            raise DeploymentError(
                f"--image {text}: is no image in ECR, expected as "
                "123456789012.dkr.ecr.eu-central-1.amazonaws.com/NAME:TAG (or @sha256:...)."
            )
        image = cls(found["account"], found["region"], found["name"], text, found["tag"])
        if image.region != account.region:
            raise DeploymentError(
                f"--image {text}: lies in {image.region}, expected {account.region}, where the "
                "endpoint is made; push it there, or set AWS_DEFAULT_REGION."
            )
        return image

    @property
    def repository(self) -> str:
        """The repository, as the end of its address: REGION:ACCOUNT:repository/NAME."""
        return f"{self.region}:{self.account}:repository/{self.name}"

    def pinned(self, account: Account) -> str:
        """The image's address by its digest, for what a tag names may change.

        Raises DeploymentError if it is not there.
        """
        from botocore.exceptions import ClientError

        if self.tag is None:
            return self.text
        ecr = account.client("ecr")
        with account.told(f"image {self.text}"):
            try:
                (found,) = ecr.describe_images(
                    registryId=self.account,
                    repositoryName=self.name,
                    imageIds=[{"imageTag": self.tag}],
                )["imageDetails"]
            except ClientError as error:
                if code_of(error) in ("RepositoryNotFoundException", "ImageNotFoundException"):
                    name = self.text.rpartition(":")[0]
                    raise DeploymentError(
                        f"--image {self.text}: no such image; push it "
                        f"(`invoke image push {name} --stage sagemaker`), or correct it."
                    ) from error
                raise
        return f"{self.text.rpartition(':')[0]}@{found['imageDigest']}"
