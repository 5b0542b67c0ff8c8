"""What `spade-index serve` does: the service until it is told to end."""

import logging
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from spade_index.errors import InputError

from .options import device_option, kernel_options, make_kernel, make_search, preset_option, search_options

MISSING = "the service needs more packages: pip install 'spade_index[serve]'"


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; any but loopback needs API keys.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any that is free.")
@click.option(
    "--api-keys",
    type=click.Path(path_type=Path),
    help="File of lines KEY GALLERIES read|write [$SPADE_INDEX_API_KEYS, where ; ends a line]",
)
@click.option("--allow-host", multiple=True, help="A name that requests may use for this service, besides localhost.")
@click.option("--allow-origin", multiple=True, help="https://SITE whose pages may call this service.")
@click.option("--memory", type=click.IntRange(64), default=2048, show_default=True, help="MiB of open galleries.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images computed together.")
@click.option("--queue", type=click.IntRange(1), default=256, show_default=True, help="Images that may wait.")
@click.option("--max-body", type=click.IntRange(1), default=64, show_default=True, help="MiB of a query's body.")
@click.option("--max-upload", type=click.IntRange(1), default=1024, show_default=True, help="MiB of images to add.")
@click.option("--max-images", type=click.IntRange(1), default=32, show_default=True, help="Images of a query.")
@click.option("--max-pixels", type=click.IntRange(1), default=50, show_default=True, help="Million pixels of an image.")
@click.option("--timeout", type=click.FloatRange(0.1), default=60, show_default=True, help="Seconds to wait in line.")
@search_options
@preset_option
@device_option
@kernel_options
def serve(root: Path, **options: Any) -> None:
    """Serve the galleries under ROOT over HTTP: a page to look at, a JSON API, and the Open Inference Protocol."""
    try:
        import uvicorn

        from spade_index.server.app import create_app
        from spade_index.server.http_protocol import protocol_options
    except ModuleNotFoundError as error:
        raise InputError(f"{MISSING} ({error.name} is not installed)") from error
    from spade_index.server.keys import VARIABLE, read_keys
    from spade_index.server.limits import JsonLines
    from spade_index.server.settings import MIB, ServeSettings

    keys = read_keys(options["api_keys"])
    settings = ServeSettings(
        root=root,
        host=options["host"],
        port=options["port"],
        allowed_hosts=options["allow_host"],
        allowed_origins=options["allow_origin"],
        device=options["device"],
        memory=options["memory"] * MIB,
        batch_images=options["batch_size"],
        queue_images=options["queue"],
        body_bytes=options["max_body"] * MIB,
        add_bytes=options["max_upload"] * MIB,
        request_images=min(options["max_images"], options["queue"]),
        image_pixels=options["max_pixels"] * 1_000_000,
        request_seconds=options["timeout"],
        **make_kernel(options),
        search=make_search(options),
    )
    if not settings.on_loopback and not keys:
        raise InputError(f"{settings.host} can be reached from elsewhere: give API keys (--api-keys FILE, ${VARIABLE})")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("spade_index", "uvicorn.error"):
        logging.getLogger(name).handlers = [handler]
        logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger(name).propagate = False
    app = create_app(settings, keys)
    config = uvicorn.Config(app, host=settings.host, port=settings.port, log_config=None, **protocol_options(settings))
    with _listening(settings.host, settings.port) as listener, suppress(KeyboardInterrupt):
        at = f"[{settings.host}]" if ":" in settings.host else settings.host
        logging.getLogger("spade_index.server").info("listening on http://%s:%d", at, listener.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """Where the service will be. Raises InputError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{host}, port {port}: cannot listen there ({reason}): choose another --port") from error
