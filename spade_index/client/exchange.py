"""Requests to a service, and their answers: each exchange within its times, refused ones tried again."""

import time
from contextlib import closing
from http import HTTPStatus
from typing import Any

import httpx

from spade_index.errors import InputError, Unavailable

from .arguments import address, key_headers, shown
from .deadline import Connections
from .received import received
from .refusals import retry_after

LONGEST_WAIT = 30.0  # seconds between two tries
IDLE = 2.0  # seconds that an unused connection is kept: fewer than the service keeps it


class Service:
    """A service at an address."""

    def __init__(self, url: str, api_key: str | None, timeout: float, tries: int, longest: float) -> None:
        """The arguments are the client's. Raises InputError."""
        headers = {"Accept-Encoding": "identity", **key_headers(api_key)}
        limits = httpx.Limits(keepalive_expiry=IDLE)
        self._http = httpx.Client(base_url=address(url), headers=headers, timeout=timeout, limits=limits)
        self._name, self._tries, self._longest = shown(self._http.base_url), tries, longest
        self._connections = Connections()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def answer(self, method: str, path: str, *, tries: int | None = None, **request: Any) -> httpx.Response:
        """Return an answer; a request that is refused (503) is sent again a few times.

        Raises Unavailable, ServiceError for an answer of another kind, and InputError for what cannot be sent.
        """
        left = tries or self._tries
        while True:
            try:
                answer = self._exchanged(method, path, request)
            except (httpx.InvalidURL, UnicodeEncodeError) as error:
                raise InputError(f"what was to be sent to {path} is no text, or too long ({error})") from error
            left -= 1
            if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE or left <= 0:
                return answer
            time.sleep(min(retry_after(answer) or 1.0, LONGEST_WAIT))

    def _exchanged(self, method: str, path: str, given: dict[str, Any]) -> httpx.Response:
        request = self._http.build_request(method, path, **given)
        with self._connections.until(request, self._longest) as deadline:
            try:
                with closing(self._http.send(request, stream=True)) as response:
                    answer = received(response)
            except httpx.TimeoutException as error:
                raise Unavailable(f"{self._name}: no answer to {method} {path} in time") from error
            except httpx.RequestError as error:
                if not deadline.over:
                    raise Unavailable(f"{self._name}: cannot be reached ({error})") from error
            if deadline.over:  # what has ended was cut off
                seconds = f"{deadline.seconds:,.1f} seconds"
                raise Unavailable(f"{self._name}: no whole answer to {method} {path} in {seconds}")
        return answer
