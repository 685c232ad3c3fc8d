"""An S3 server in a process of its own that checks signatures: moto's, and one user who may use S3.

Started as a program it writes its port once it listens, and ends when its standard input does.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

REGION = "eu-west-1"
_FILL = "/fill-a-bucket"
_SETTING_UP = 3  # requests: the user, its policy, its key; every later one must be signed by it
_POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": "*"}]}


@dataclass(frozen=True)
class S3Server:
    """A server and the keys to it, which processes may share. names: of the buckets of this one."""

    endpoint: str
    key_id: str
    secret: str
    names: Iterator[str] = field(
        default_factory=lambda: map(f"bucket-{uuid.uuid4().hex[:8]}-{{}}".format, itertools.count())
    )

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be let in, and to look for keys nowhere else."""
        return {
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> Any:
        """Open a client, which the caller closes."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
        )

    def new_bucket(self) -> str:
        """Make a bucket."""
        name = next(self.names)
        client = self.client()
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        client.close()
        return name

    def fill(self, bucket: str, prefix: str, count: int) -> list[str]:
        """Put many empty files into a bucket at once, which asking for each would take long; gives their keys."""
        query = urlencode({"bucket": bucket, "prefix": prefix, "count": count})
        with urllib.request.urlopen(f"{self.endpoint}{_FILL}?{query}") as answer:
            keys: list[str] = json.load(answer)
        return keys

    def new_uri(self, endpoint: str | None = None, **parameters: str) -> str:
        """Give the URI of a storage in a new bucket. endpoint: of a proxy before the server."""
        query = {"endpoint": endpoint or self.endpoint, "region": REGION, **parameters}
        return f"s3://{self.new_bucket()}/pre/fix?" + "&".join(f"{name}={value}" for name, value in query.items())


@contextmanager
def s3_server(_: Path) -> Iterator[tuple[str, str, str]]:
    """Start a server, and end it. Yields its endpoint and the keys to it."""
    import boto3

    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(_SETTING_UP)}
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
        iam = boto3.client(
            "iam", endpoint_url=endpoint, region_name=REGION, aws_access_key_id="nobody", aws_secret_access_key="none"
        )
        iam.create_user(UserName="tests")
        iam.put_user_policy(UserName="tests", PolicyName="s3", PolicyDocument=json.dumps(_POLICY))
        key = iam.create_access_key(UserName="tests")["AccessKey"]
        iam.close()
        try:
            yield endpoint, key["AccessKeyId"], key["SecretAccessKey"]
        finally:
            process.communicate()  # closes its input


def fill(bucket: str, prefix: str, count: str) -> list[str]:
    """Do within the server what `S3Server.fill` asks for."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    keys = [f"{prefix}{number:04d}" for number in range(int(count))]
    for key in keys:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, b"")
    return keys


def main() -> None:
    """Serve until standard input ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    one_by_one = threading.Lock()
    moto = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        """Answer one request after the other: moto looks whether a key is free and takes it in two steps."""
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        with one_by_one:
            if environ["PATH_INFO"] == _FILL:
                start_response("200 OK", [("Content-Type", "application/json")])
                return [json.dumps(fill(**dict(parse_qsl(environ["QUERY_STRING"])))).encode()]
            return moto(environ, start_response)

    class Quiet(MotoRequestHandler):
        def log_request(self, *args: object) -> None:
            """Say nothing."""

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
