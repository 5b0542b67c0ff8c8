"""Connect to a Ray cluster, or start one on this machine, and divide its cores among workers."""

import importlib.util
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from spade_index.errors import ClusterError

if TYPE_CHECKING:
    import types

LOCAL = "local"
STORE_BYTES = 80 << 20  # of a local cluster's object store: nothing large travels
REACHED_IN = 5.0  # seconds
LONGEST_FOLDER = 44  # characters; a socket below it has 107 at most
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # of what Ray would print on standard output, as that a worker has died
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # workers without a share of a GPU see none; stated, it is no warning
}
# Without clusters of several machines, Ray listens on 127.0.0.1; it would take the address for that of the machine. Who
# connects there needs the token, which other users of the machine cannot read. Ray keeps it: it is one for a program.
ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}

Node = Mapping[str, float]  # what a machine has, by the name of the resource


def require_cluster(address: str) -> None:
    """Raise ClusterError unless Ray is installed, and something listens at the address, if that is not `local`."""
    if importlib.util.find_spec("ray") is None:
        raise ClusterError("Ray is not installed: pip install 'spade_index[ray]'")
    if address != LOCAL:
        _require_listener(address)


@contextmanager
def connected(address: str, cores: int | None = None) -> "Iterator[types.ModuleType]":
    """Connect to the cluster at HOST:PORT, or to one that `local` starts on this machine; give the module `ray`.

    A cluster that is started has room for workers with `cores` in all, by default the machine's.

    A program that is connected already keeps its connection. Raises ClusterError.
    """
    require_cluster(address)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield sys.modules["ray"]
    elif address == LOCAL:
        with _set(ALONE), _short_folder() as folder, _session(address, _temp_dir=folder, **_local(cores)) as ray:
            yield ray
    else:
        with _session(address) as ray:
            yield ray


@contextmanager
def _session(address: str, **options: Any) -> "Iterator[types.ModuleType]":
    import ray

    ending = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False, **options)
        with suppress(ValueError, TypeError):  # not the main thread, or a handler that is not Python's
            signal.signal(signal.SIGTERM, ending)
    except Exception as error:  # Ray raises just this where a cluster takes longer than half a minute to start
        reason = str(error.__cause__ or error).strip().rpartition("\n")[2][:200]  # the last line of a traceback
        raise ClusterError(f"no Ray cluster at {address}: {reason}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _local(cores: int | None) -> dict[str, Any]:
    """Return the options of a cluster of this machine alone."""
    return {
        "num_cpus": cores or os.cpu_count() or 1,
        "include_dashboard": False,
        "object_store_memory": STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
    }


@contextmanager
def _set(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _short_folder() -> Iterator[str]:
    """Give a folder for sockets, which others cannot enter. Raises ClusterError if its name would be too long."""
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="ray-", dir=base, ignore_cleanup_errors=True) as folder:
        if len(folder) > LONGEST_FOLDER:
            raise ClusterError(f"{base}: too long a name for the sockets of Ray: set RAY_TMPDIR to a shorter one")
        yield folder


def _require_listener(address: str) -> None:
    """Raise ClusterError unless something listens at HOST:PORT: Ray would try for a minute, and print a page."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and "/" not in host):
        raise ClusterError(f"a Ray cluster is named by HOST:PORT, or `local` starts one: not {address!r}")
    try:
        with suppress(OverflowError):
            socket.create_connection((host, int(port)), REACHED_IN).close()
            return
    except OSError as error:
        raise ClusterError(f"no Ray cluster at {address}: {error.strerror or error}") from error
    raise ClusterError(f"no Ray cluster at {address}: there is no such port")


def divide(nodes: Sequence[Node], workers: int | None, gpus: float) -> tuple[int, int]:
    """Return the number of workers, and the cores of each, as many as there are for all of them.

    Without `workers`, there is one for each share of a GPU of `gpus`, or, where that is 0, one for each machine. Raises
    ClusterError if there is no room for all of them.
    """
    most = _room(nodes, 1, gpus)
    wanted = workers or (_room(nodes, 1, gpus) if gpus else sum(node.get("CPU", 0) >= 1 for node in nodes))
    if not 0 < wanted <= most:
        share = f", with {gpus:g} of a GPU each" if gpus else ""
        raise ClusterError(f"the cluster has room for {most:,} workers{share}, not for {max(1, wanted):,}")
    largest = int(max(node.get("CPU", 0) for node in nodes))
    return wanted, max(cores for cores in range(1, largest + 1) if _room(nodes, cores, gpus) >= wanted)


def _room(nodes: Sequence[Node], cores: int, gpus: float) -> int:
    """Return the number of workers with these cores and this share of GPUs that there is room for."""
    # A worker has its share of one GPU, or whole ones.
    shares = [_shares(node.get("GPU", 0), gpus) for node in nodes]
    return sum(
        int(node.get("CPU", 0) // cores) if share is None else min(int(node.get("CPU", 0) // cores), share)
        for node, share in zip(nodes, shares, strict=True)
    )


def _shares(there: float, gpus: float) -> int | None:
    if not gpus:
        return None
    return int(there // gpus) if gpus >= 1 else int(there) * int(1 / gpus + 1e-9)
