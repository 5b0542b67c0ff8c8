"""Clients, and the services that they use."""

from collections.abc import Iterator

import pytest

from spade_index.client import Client

from helpers.served import _root, root, serve, server, shared_server
from helpers.serving import Server

__all__ = ["_root", "root", "serve", "server", "shared_server"]


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """A client of a shared service, for tests that change nothing."""
    with Client(shared_server.url) as client:
        yield client


@pytest.fixture
def writer(server: Server) -> Iterator[Client]:
    """A client of a service whose galleries a test may change."""
    with Client(server.url) as client:
        yield client
