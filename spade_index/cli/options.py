"""Arguments and options that several commands share.

A group of options is a frozen dataclass, whose fields are annotated with their options, or are groups themselves. The
decorator `takes` adds the options of a group to a command, which receives them as one object:

    @click.command()
    @takes("loading", LoadingOptions)
    def build(loading: LoadingOptions) -> None: ...
"""

import functools
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import click

from spade_index.settings import BATCH_SIZE, FALSE_ALARMS, DecodeLimits

from .values import ANY_GALLERY, GALLERY, MOST_IMAGES, MOST_WORKERS, PATH, TEXT, RealRange, WholeRange

gallery_argument = click.argument("gallery", type=GALLERY)
any_gallery_argument = click.argument("gallery", type=ANY_GALLERY)
images_argument = click.argument("images", type=PATH)
many_images_argument = click.argument("images", type=PATH, nargs=-1, required=True)
preset_option = click.option(
    "--preset",
    type=click.Choice(["paper"]),
    help="The settings of Cohen and Hoshen 2020; other options override, and a gallery keeps its preprocessing.",
)
tune_option = click.option(
    "--no-tune", is_flag=True, help="Do not choose input size and search settings, nor calibrate: keep the defaults."
)
false_alarms_option = click.option(
    "--false-alarms",
    type=RealRange(0, 1, min_open=True, max_open=True),
    help=f"Share of good parts that may be called anomalous [as calibrated: {FALSE_ALARMS:g}]",
)
device_option = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")


def whole_option(
    name: str, default: int | None, help: str, *, least: int = 1, most: int | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return an option that is an integer from `least` to `most`; the help shows a default other than None."""
    return click.option(
        name, type=WholeRange(least, most), default=default, show_default=default is not None, help=help
    )


def takes(
    parameter: str, group: type, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a group's options to a command, and passes the group as `parameter`.

    Options `without` are not added: they are None.
    """
    every = get_type_hints(group, include_extras=True)
    hints = {name: hint for name, hint in every.items() if name not in without}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        """Return the command, called with an object of the group in place of its options."""

        @functools.wraps(command)
        def call(*arguments: Any, **values: Any) -> None:
            chosen = group(**dict.fromkeys(without), **{name: values.pop(name) for name in hints})
            command(*arguments, **values, **{parameter: chosen})

        taken: Callable[..., None] = call
        for name, hint in reversed(hints.items()):
            taken = takes(name, hint)(taken) if isinstance(hint, type) else hint.__metadata__[0](taken)
        return taken

    return decorate


@dataclass(frozen=True)
class KernelOptions:
    """The kernel of the pixel search, and the memory for maps."""

    kernel: Annotated[
        str | None,
        click.option(
            "--kernel",
            help="Backend of the pixel search: torch, triton, cupy, reference [$SPADE_INDEX_KERNEL; the device's best]",
        ),
    ]
    map_memory: Annotated[
        int | None,
        whole_option(
            "--map-memory",
            None,
            "MiB of normal images' feature maps that are kept for the pixel search [128; half of a GPU's memory]",
        ),
    ]

    @property
    def map_bytes(self) -> int | None:
        """The memory for maps in bytes; None: the default."""
        return None if self.map_memory is None else self.map_memory << 20


@dataclass(frozen=True)
class LoadingOptions:
    """Options of decoding and batching images."""

    batch_size: Annotated[int, whole_option("--batch-size", BATCH_SIZE, "Images per batch.", most=MOST_IMAGES)]
    workers: Annotated[
        int,
        click.option(
            "--workers",
            type=WholeRange(1, MOST_WORKERS),
            default=os.cpu_count() or 2,
            help="Decoding processes [one per core]",
        ),
    ]
    decode_memory: Annotated[
        int, whole_option("--decode-memory", DecodeLimits.memory >> 20, "MiB that decoding an image takes.", least=64)
    ]
    decode_seconds: Annotated[
        float,
        click.option(
            "--decode-seconds",
            type=RealRange(0, 86_400, min_open=True),
            default=DecodeLimits.seconds,
            show_default=True,
            help="Seconds that decoding an image takes.",
        ),
    ]

    def limit_decoding(self) -> None:
        """Set the limits of decoding images of this program, and start a process, while torch is imported."""
        from spade_index.images.workers import limit_decoding, shared_pool

        limit_decoding(DecodeLimits(memory=self.decode_memory << 20, seconds=self.decode_seconds))
        if not shared_pool().pids:
            with suppress(OSError):  # who needs it tells
                shared_pool().start(1)


@dataclass(frozen=True)
class AddingOptions:
    """Options of adding images to a gallery."""

    prefix: Annotated[str, click.option("--prefix", type=TEXT, default="", help="Put before each image id.")]
    replace: Annotated[
        bool, click.option("--replace", is_flag=True, help="Replace images that have changed under the same id.")
    ]
    again: Annotated[
        bool, click.option("--again", is_flag=True, help="Take images that were removed before [they stay out]")
    ]
    strict: Annotated[
        bool, click.option("--strict", is_flag=True, help="Stop at the first image that cannot be decoded.")
    ]
