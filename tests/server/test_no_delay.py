"""Answers leave at once: connections do not wait for the client to acknowledge the head before the body is sent."""

import socket

from spade_index.cli.serve import _listening


def test_connections_send_without_delay() -> None:
    with _listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as client:
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert client.getpeername()[1] == listener.getsockname()[1]
