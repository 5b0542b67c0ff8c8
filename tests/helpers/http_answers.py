"""Checks of the service's answers that many tests share."""

from typing import Any

import httpx

from .waiting import eventually


def finished(http: httpx.Client, job: str, *, state: str, **options: Any) -> dict[str, Any]:
    """Wait until a job has a state; return it. Fails if it ends in another state."""
    told: dict[str, Any] = {}

    def ended() -> bool:
        told.update(http.get(f"/v1/jobs/{job}", **options).json())
        resting = told["state"] in ("done", "failed", "cancelled", "interrupted")
        assert not resting or told["state"] == state, told
        return bool(told["state"] == state)

    eventually(ended)
    return told


def problem(answer: Any, status: int, field: str | None = None) -> dict[str, Any]:
    """Check that an answer is a problem with this status and field; return the problem details."""
    assert answer.status_code == status, answer.content
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["title"]
    assert told["detail"]
    assert "\n" not in told["detail"]
    assert told["request_id"] == answer.headers["x-request-id"]
    if field is not None:
        assert field in [error["field"] for error in told["errors"]], told
    return told
