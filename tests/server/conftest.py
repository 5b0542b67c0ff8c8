"""Galleries to serve, and services that end with their tests."""

from helpers.served import _root, root, serve, server, shared_server

__all__ = ["_root", "root", "serve", "server", "shared_server"]
