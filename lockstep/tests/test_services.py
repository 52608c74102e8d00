"""The servers that other tests are given do what those rely on."""

from contextlib import closing

import psycopg2
import pytest
from botocore.exceptions import ClientError

from lockstep.tests.services import S3, Postgres

pytestmark = pytest.mark.slow  # PostgreSQL and an S3 server


def test_each_database_is_empty_and_wants_the_password(postgres: Postgres) -> None:
    first, second = postgres.database(), postgres.database()
    with closing(psycopg2.connect(first)) as connection, connection.cursor() as cursor:
        cursor.execute("create table seen (n int)")
        connection.commit()
    with closing(psycopg2.connect(second)) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from information_schema.tables where table_name = 'seen'")
        assert cursor.fetchone() == (0,)
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(first.replace(postgres.password, "guess"))


def test_each_bucket_is_empty_and_wants_the_key(s3: S3) -> None:
    first, second = s3.bucket(), s3.bucket()
    client = s3.client()
    content = bytes(range(256)) * 40_000  # more than one part of the server's own
    client.put_object(Bucket=first, Key="a/b", Body=content)
    assert client.get_object(Bucket=first, Key="a/b")["Body"].read() == content
    assert client.list_objects_v2(Bucket=second)["KeyCount"] == 0
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=first, Key="a/b", Body=b"", IfNoneMatch="*")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        S3(s3.endpoint, s3.key, "guess").client().list_buckets()
