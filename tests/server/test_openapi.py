"""The OpenAPI document describes what the service does: requests that are made from it find no failure."""

import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from helpers.serving import Server
from helpers.tiny import png
from helpers.uploads import odd, parts
from helpers.waiting import PATIENCE

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 5  # of each operation


@pytest.fixture(scope="module")
def there(_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A service with a gallery, a result and a job, by the names of parameters."""
    root = Path(shutil.copytree(_root, tmp_path_factory.mktemp("described") / "root"))
    server = Server(root, body_seconds=2)
    result = server.query("plain", odd())["score_map"]["id"]
    judged = server.service.recent.of("plain")[0].id
    job = server.http.post("/v1/galleries/plain/images", files=parts(("new.png", png(50)))).json()["id"]
    server.finished(job)
    names = {"gallery": "plain", "model": "plain", "version": "1", "number": "1"}
    yield {"url": server.url, **names, "results": result, "jobs": job, "judged": judged}
    server.stop()


def test_generated_requests_are_answered_as_described(there: dict[str, str]) -> None:
    schema = schemathesis.openapi.from_url(f"{there['url']}/openapi.json", config=schemathesis.Config(seed=20))
    failures, tried = [], 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @seed(20)
        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy())
        def answers_as_described(case: Any) -> None:
            case.validate_response(case.call(timeout=PATIENCE), checks=[*CHECKS, unsupported_method])
            # The same of what is there: made-up names would never get far.
            for name in case.path_parameters or {}:
                case.path_parameters[name] = there[
                    case.path.partition("/{id}")[0].rpartition("/")[2] if name == "id" else name
                ]
            case.validate_response(case.call(timeout=PATIENCE), checks=CHECKS)

        try:
            answers_as_described()
        except (Exception, BaseExceptionGroup) as failure:
            failures.append(f"{operation.label}: {traceback.format_exception_only(failure)}")
        tried += 1
    assert not failures, "\n\n".join(failures)
    assert tried >= 25
