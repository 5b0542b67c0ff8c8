"""moto's S3 with an access key whose signatures it checks, as Amazon does."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

from spade_index.benchmarks.moto_server import MotoServer, moto_server

POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
TO_IAM = {"Authorization": "AWS4-HMAC-SHA256 Credential=A/20250101/us-east-1/iam/aws4_request, Signature=b"}


@contextmanager
def checking_moto() -> Iterator[tuple[MotoServer, dict[str, str]]]:
    """Run a server that refuses other keys and wrong signatures; yield it and the variables of a client's environment.

    The key of this client may do anything.
    """
    with moto_server() as server:

        def iam(action: str, **values: str) -> str:
            query = {"Action": action, "UserName": "tests", "Version": "2010-05-08", **values}
            return server.ask("POST", "/", urlencode(query).encode(), TO_IAM).decode()

        iam("CreateUser")
        iam("PutUserPolicy", PolicyName="all", PolicyDocument=json.dumps(POLICY))
        answer = iam("CreateAccessKey")
        names = {"AWS_ACCESS_KEY_ID": "AccessKeyId", "AWS_SECRET_ACCESS_KEY": "SecretAccessKey"}
        key = {name: re.findall(f"<{tag}>(.+?)</{tag}>", answer)[0] for name, tag in names.items()}
        server.ask("POST", "/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
        yield server, {**server.environment(), **key}
