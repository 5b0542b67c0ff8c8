"""`spade-index serve`: serve galleries over HTTP until interrupted."""

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from spade_index.errors import InputError
from spade_index.exact import whole
from spade_index.server.settings import MIB, ServeSettings
from spade_index.settings import DecodeLimits

from .cache_options import CacheOptions, local
from .cluster_options import OwnClusterOptions
from .options import KernelOptions, device_option, preset_option, takes, whole_option
from .outputs import require_writable
from .search_options import SearchOptions
from .sink_options import SinkOptions
from .streams import default_signals
from .values import ANY_GALLERY, PATH, RealRange, any_number

if TYPE_CHECKING:  # they take long to import
    from spade_index.gallery.location import Location
    from spade_index.server.verdicts import Outlet

MISSING = "the service needs more packages: pip install 'spade_index[serve]'"
MEGA = 1_000_000


OPTIONS = {  # of limits that have one of their own
    "memory": "--memory",
    "queue_images": "--queue",
    "body_bytes": "--max-body",
    "add_bytes": "--max-upload",
    "request_images": "--max-images",
    "image_pixels": "--max-pixels",
    "connections": "--connections",
    "request_seconds": "--timeout",
}
NO_LIMITS = ("port", "batch_images", "batch_window")
LIMITS = {  # that --limit sets, and their types
    one.name: one.type
    for one in fields(ServeSettings)
    if one.type in (int, float) and one.name not in (*OPTIONS, *NO_LIMITS)
}


def _limits(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
    """Return the limits of `--limit NAME=NUMBER`, each given once."""
    found: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name in OPTIONS:
            raise click.BadParameter(f"{name}: use {OPTIONS[name]}")
        if name not in LIMITS:
            raise click.BadParameter(f"{name!r}: there are {', '.join(sorted(LIMITS))}")
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        try:
            found[name] = whole(value) if LIMITS[name] is int else any_number(value)
        except ValueError as error:
            raise click.BadParameter(f"{name}: {error}") from error
    return found


@dataclass(frozen=True)
class ServeOptions:
    """Address and limits of the service; the defaults are those of ServeSettings."""

    host: Annotated[
        str,
        click.option(
            "--host", default=ServeSettings.host, show_default=True, help="Address; any but loopback needs API keys."
        ),
    ]
    port: Annotated[int, whole_option("--port", ServeSettings.port, "0: any that is free.", least=0, most=65535)]
    api_keys: Annotated[
        Path | None,
        click.option(
            "--api-keys",
            type=PATH,
            help="File of lines KEY GALLERIES read|write [$SPADE_INDEX_API_KEYS, where ; ends a line]",
        ),
    ]
    allow_host: Annotated[
        tuple[str, ...],
        click.option(
            "--allow-host", multiple=True, help="A name that requests may use for this service, besides localhost."
        ),
    ]
    allow_origin: Annotated[
        tuple[str, ...],
        click.option("--allow-origin", multiple=True, help="https://SITE whose pages may call this service."),
    ]
    label_studio: Annotated[
        str | None,
        click.option("--label-studio", metavar="URL", help="Label Studio, from which images of its tasks are fetched."),
    ]
    label_studio_token: Annotated[
        Path | None,
        click.option("--label-studio-token", type=PATH, help="File of its token [$SPADE_INDEX_LABEL_STUDIO_TOKEN]"),
    ]
    memory: Annotated[int, whole_option("--memory", ServeSettings.memory // MIB, "MiB of open galleries.", least=64)]
    batch_size: Annotated[
        int | None, whole_option("--batch-size", None, "Images computed together [4 for each core, 8 to 32]")
    ]
    queue: Annotated[int, whole_option("--queue", ServeSettings.queue_images, "Images that may wait.")]
    max_body: Annotated[int, whole_option("--max-body", ServeSettings.body_bytes // MIB, "MiB of a query's body.")]
    max_upload: Annotated[int, whole_option("--max-upload", ServeSettings.add_bytes // MIB, "MiB of images to add.")]
    max_images: Annotated[int, whole_option("--max-images", ServeSettings.request_images, "Images of a query.")]
    max_pixels: Annotated[
        int, whole_option("--max-pixels", ServeSettings.image_pixels // MEGA, "Million pixels of an image.")
    ]
    connections: Annotated[int, whole_option("--connections", ServeSettings.connections, "Connections at a time.")]
    limits: Annotated[
        dict[str, float],
        click.option(
            "--limit",
            "limits",
            multiple=True,
            callback=_limits,
            metavar="NAME=NUMBER",
            help="Any other limit, as docs/serve.md names it; in bytes, seconds or pieces.",
        ),
    ]
    timeout: Annotated[
        float,
        click.option(
            "--timeout",
            type=RealRange(0.1, 86_400),
            default=ServeSettings.request_seconds,
            show_default=True,
            help="Seconds to wait in line.",
        ),
    ]

    def settings(
        self,
        root: "Path | Location",
        search: SearchOptions,
        preset: str | None,
        device: str,
        kernel: KernelOptions,
        cache: CacheOptions,
    ) -> ServeSettings:
        """Return the settings of the service. Raises InputError for values that cannot be."""
        from spade_index.server.label_studio.address import read_token

        return ServeSettings(
            root=root,
            host=self.host,
            port=self.port,
            allowed_hosts=self.allow_host,
            allowed_origins=self.allow_origin,
            label_studio=self.label_studio,
            label_studio_token=None if self.label_studio is None else read_token(self.label_studio_token),
            device=device,
            memory=self.memory * MIB,
            batch_images=self.batch_size or ServeSettings.batch_images,
            queue_images=self.queue,
            body_bytes=self.max_body * MIB,
            add_bytes=self.max_upload * MIB,
            request_images=min(self.max_images, self.queue),
            image_pixels=self.max_pixels * MEGA,
            connections=self.connections,
            request_seconds=self.timeout,
            kernel=kernel.kernel,
            map_memory=kernel.map_bytes,
            search=search.choice(preset),
            cache=None if isinstance(root, Path) else cache.settings(),
            **self.limits,  # type: ignore[arg-type]
        )


@click.command()
@click.argument("root", type=ANY_GALLERY)
@takes("options", ServeOptions)
@takes("search", SearchOptions)
@preset_option
@device_option
@takes("kernel", KernelOptions)
@takes("cache", CacheOptions)
@takes("cluster", OwnClusterOptions)
@click.option("--verdicts", type=PATH, help="Append the verdict of each query to this file, one line each.")
@takes("receivers", SinkOptions)
def serve(
    root: "Path | Location",
    options: ServeOptions,
    search: SearchOptions,
    preset: str | None,
    device: str,
    kernel: KernelOptions,
    cache: CacheOptions,
    cluster: OwnClusterOptions,
    verdicts: Path | None,
    receivers: SinkOptions,
) -> None:
    """Serve the galleries under ROOT over HTTP: a page to look at, a JSON API, and the Open Inference Protocol.

    ROOT may be the URL of a gallery in an object store, which is served read-only.
    """
    try:
        import uvicorn

        from spade_index.server.app import create_app
        from spade_index.server.http_protocol import protocol_options
        from spade_index.server.stopping import PunctualServer
    except ModuleNotFoundError as error:
        raise InputError(f"{MISSING} ({error.name} is not installed)") from error
    from spade_index.images.workers import limit_decoding
    from spade_index.private_files import shared_with_group
    from spade_index.server.keys import VARIABLE, read_keys
    from spade_index.server.logs import log_to

    default_signals()  # uvicorn handles them
    cluster.require()
    keys = read_keys(options.api_keys)
    settings = options.settings(root, search, preset, device, kernel, cache)
    if not settings.on_loopback and not keys:
        raise InputError(f"{settings.host} can be reached from elsewhere: give API keys (--api-keys FILE, ${VARIABLE})")
    receivers.require_used()
    require_writable([verdicts], [receivers.state], inputs=local(root))
    log_to(sys.stderr)
    limit_decoding(DecodeLimits(settings.image_pixels, settings.decode_bytes, settings.decode_seconds))  # of drawing
    log = logging.getLogger("spade_index.server")
    for file in (options.api_keys, options.label_studio_token):
        if said := shared_with_group(file):
            log.warning("%s", said)
    searching = cluster.searching(device, kernel, cache, log.warning)
    with searching as elsewhere, _outlet(root, verdicts, receivers, settings.spool_bytes) as outlet:
        app = create_app(settings, keys, elsewhere=elsewhere, outlet=outlet)
        protocol = protocol_options(settings, app.state.service.metrics)
        config = uvicorn.Config(app, host=settings.host, port=settings.port, log_config=None, **protocol)
        with _listening(settings.host, settings.port) as listener, suppress(KeyboardInterrupt):
            at = f"[{settings.host}]" if ":" in settings.host else settings.host
            log.info("listening on http://%s:%d", at, listener.getsockname()[1])
            PunctualServer(config, settings).run(sockets=[listener])


@contextmanager
def _outlet(
    root: "Path | Location", verdicts: Path | None, receivers: SinkOptions, most_bytes: int
) -> Iterator["Outlet | None"]:
    """Open the way of verdicts to their receivers, if there is one. Raises InputError."""
    from spade_index.server.verdicts import Outlet, log
    from spade_index.sinks.spool import Spool

    if verdicts is None and not receivers.are_given:
        yield None
        return
    state, lines = receivers.folder(root), [] if verdicts is None else [verdicts]
    with Spool(state, most_bytes) as spool, receivers.opened(state, lines, log.warning) as sinks:
        yield Outlet(spool, sinks)


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises InputError."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{host}, port {port}: cannot listen there ({reason}): choose another --port") from error
    # Connections inherit it. asyncio sets it only where the protocol was named, which `create_server` does not; without
    # it a body waited 40 ms for the client to acknowledge the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
