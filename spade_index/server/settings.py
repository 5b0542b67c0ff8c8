"""Settings of the service: galleries, address, memory and limits."""

import ipaddress
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from spade_index.errors import InputError
from spade_index.presets import SearchChoice
from spade_index.settings import DecodeLimits

if TYPE_CHECKING:  # they take long to import
    from spade_index.gallery.location import Location
    from spade_index.gallery.remote.cache import CacheSettings

MIB = 1 << 20
MOST_ADDED = 10_000  # images of a request that adds some, whatever the settings


@dataclass(frozen=True)
class ServeSettings:
    """All settings of `spade-index serve`; sizes in bytes, times in seconds."""

    root: "Path | Location"  # a folder of galleries, or one in an object store
    host: str = "127.0.0.1"
    port: int = 8765
    allowed_hosts: tuple[str, ...] = ()  # names that requests may give besides the one listened on
    allowed_origins: tuple[str, ...] = ()  # of other sites' pages that may call the service

    search: SearchChoice = field(default_factory=SearchChoice)  # the rest is each gallery's own, `maps` each request's
    device: str = "auto"
    kernel: str | None = None
    map_memory: int | None = None  # of each open gallery
    memory: int = 2048 * MIB  # of all open galleries
    idle_seconds: float = 600  # after which an unused gallery is closed

    # Images that share a pass through the backbone. Its threads each take a part of them, and larger parts take longer
    # for an image: they leave the cache.
    batch_images: int = min(32, max(8, 4 * (os.cpu_count() or 2)))
    batch_window: float = 0.005  # to wait for images that are being decoded
    queue_images: int = 256  # admitted and not answered; beyond it requests are refused
    decoders: int = os.cpu_count() or 2

    body_bytes: int = 64 * MIB
    add_bytes: int = 1024 * MIB  # body of a request that adds images
    ids_bytes: int = MIB  # body of a request that names images
    held_bytes: int = 512 * MIB  # of all bodies that are being received, those of adding aside
    staged_bytes: int = 8192 * MIB  # of all images that were sent to be added and are not in a gallery yet
    json_elements: int = 2_000_000  # of the JSON of an inference: brackets and commas of the question, or values
    request_images: int = 32
    add_images: int = 1000  # of one request
    image_pixels: int = 50_000_000
    decode_bytes: int = DecodeLimits.memory  # of the process that decodes an image
    decode_seconds: float = DecodeLimits.seconds
    connections: int = 256  # or half of the files that the process may open, if these are fewer
    unsent_bytes: int = 256 * MIB  # of all answers that clients have not read
    keep_seconds: float = 5  # that a connection is kept without a request
    write_seconds: float = 30  # in which a client reads some of its answer,
    write_rate: int = 8 << 10  # at this rate at least
    head_seconds: float = 10  # for a request's head to arrive
    body_seconds: float = 30  # without a byte of its body,
    body_rate: int = 32 << 10  # or for longer with fewer bytes a second than these
    request_seconds: float = 60  # from its arrival to its turn

    change_seconds: float = 5  # that removing and restoring wait for another writer
    changes_waiting: int = 16  # of them at a time
    job_seconds: float = 60  # that a job waits for another writer
    jobs_waiting: int = 100  # jobs that have not been run, beyond which no more are taken
    jobs_kept: int = 100  # ended jobs that are remembered

    results_bytes: int = 256 * MIB  # of recent results, whose score maps can be asked for
    results_seconds: float = 900
    spool_bytes: int = 256 * MIB  # of verdicts that wait for a sink

    replay_images: int = 50  # of each gallery, judged last, that are kept to be judged again,
    replay_bytes: int = 256 * MIB  # of all galleries together,
    replay_seconds: float = 30  # in this time

    cache: "CacheSettings | None" = None  # of what is read of an object store
    label_studio: str | None = None  # its URL, from which images of its tasks are fetched
    label_studio_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if limit.type is int and limit.name != "port" and value < 1:
                raise InputError(f"{limit.name} must be at least 1, not {value}")
            if limit.type is float and not 0 < value < math.inf:
                raise InputError(f"{limit.name} must be above 0 and finite, not {value}")
        if self.add_images > MOST_ADDED:
            raise InputError(f"add_images must be at most {MOST_ADDED}, not {self.add_images}")
        if self.queue_images < self.request_images:
            raise InputError(
                f"the queue ({self.queue_images} images) must hold at least one request ({self.request_images} images)"
            )

    @property
    def on_loopback(self) -> bool:
        """Return whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
