"""Galleries to serve, and services that end with their tests."""

from helpers.served import _root, decoding_here, root, serve, server, shared_server

__all__ = ["_root", "decoding_here", "root", "serve", "server", "shared_server"]
