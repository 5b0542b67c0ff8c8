"""`spade-index watch`: judge the images that appear in a folder, until interrupted."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from spade_index.errors import InputError
from spade_index.watch.settings import WatchSettings

from .cache_options import local
from .detector_options import DetectorOptions
from .options import any_gallery_argument, takes, whole_option
from .outputs import require_writable
from .progress import Progress
from .region_rules import limit_sources
from .sink_options import SinkOptions
from .values import PATH, AnyReal

if TYPE_CHECKING:  # they take long to import
    from spade_index.features.backbone import Backbone
    from spade_index.gallery.location import Location
    from spade_index.images.files import ImageFile, MaskFile
    from spade_index.images.region_rule import RegionRule
    from spade_index.watch.judge import Judge

STDOUT = Path("-")


@dataclass(frozen=True)
class WatchOptions:
    """When images are complete, and how much may wait; the defaults are those of WatchSettings."""

    interval: Annotated[
        float,
        click.option(
            "--interval",
            type=AnyReal(),
            default=WatchSettings.interval,
            show_default=True,
            help="Seconds between looks.",
        ),
    ]
    settle: Annotated[
        float,
        click.option(
            "--settle",
            type=AnyReal(),
            default=WatchSettings.settle,
            show_default=True,
            help="Seconds without change after which a file is complete.",
        ),
    ]
    queue: Annotated[int, whole_option("--queue", WatchSettings.queue, "Images that a look takes.")]
    spool: Annotated[int, whole_option("--spool", WatchSettings.spool, "Verdicts that wait; then no more are judged.")]
    once: Annotated[bool, click.option("--once", is_flag=True, help="End when all images that are there are judged.")]

    def settings(self) -> WatchSettings:
        """Return the settings. Raises InputError."""
        return WatchSettings(self.interval, self.settle, self.queue, self.spool, self.once)


@dataclass(frozen=True)
class Judging:
    """Makes the judge of the gallery as it is, again whenever it has changed."""

    folder: Path
    gallery: "Path | Location"
    how: DetectorOptions

    def latest(self) -> "Callable[[], Judge]":
        """Return a function that returns the judge; a gallery in an object store is read as it was at first."""
        loaded: dict[Any, Backbone] = {}
        opened: list[tuple[Any, Judge]] = []

        def judge() -> "Judge":
            version = self._version()
            if opened and opened[0][0] == version:
                return opened[0][1]
            if opened:
                opened.pop()[1].gallery.close()
            opened.append((version, self._opened(loaded)))
            return opened[0][1]

        return judge

    def _version(self) -> Any:
        """Return what changes with each commit, and when another gallery takes the place of this one."""
        if not isinstance(self.gallery, Path):
            return None
        with suppress(OSError):
            status = os.stat(self.gallery / "catalog.sqlite")
            return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        return None

    def _opened(self, loaded: "dict[Any, Backbone]") -> "Judge":
        from spade_index.watch.judge import Judge

        gallery = self.how.cache.open(self.gallery, None, to_search=True)
        try:
            if gallery.settings not in loaded:
                loaded.clear()
                loaded[gallery.settings] = self.how.load(gallery)
            detector = self.how.detector(gallery, loaded[gallery.settings])
            regions = Regions(str(self.folder))
            limit_sources(regions, gallery, self.how.roi)
        except BaseException:
            gallery.close()
            raise
        loading = self.how.loading
        return Judge(detector, loading.batch_size, loading.workers, regions.region, regions.is_mask)


class Regions:
    """The regions of interest of images of a folder, as `limit_sources` sets them."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._rule: RegionRule | None = None
        self._given: Callable[[ImageFile], MaskFile | None] | None = None

    def limit_to(
        self, rule: "RegionRule | None", region: "Callable[[ImageFile], MaskFile | None] | None" = None
    ) -> None:
        """Set a rule, and what names the mask of an image in place of the rule."""
        self._rule, self._given = rule, region

    def region(self, file: "ImageFile") -> "MaskFile | None":
        """Return an image's mask, if it has one."""
        from spade_index.images.files import MaskFile

        if self._given is not None:
            return self._given(file)
        return None if self._rule is None else MaskFile.at(self._rule.path_of(file.id, self._folder))

    def is_mask(self, name: str) -> bool:
        """Return whether a file of this name below the folder may be a mask."""
        return self._rule is not None and self._rule.masks_below(self._folder)(name)


@click.command()
@click.argument("folder", type=PATH)
@any_gallery_argument
@click.option(
    "--jsonl",
    type=PATH,
    help="Append verdicts to this file, one line each; `-`: standard output [-, without other receivers]",
)
@takes("receivers", SinkOptions)
@takes("options", WatchOptions)
@takes("how", DetectorOptions)
def watch(
    folder: Path,
    gallery: "Path | Location",
    jsonl: Path | None,
    receivers: SinkOptions,
    options: WatchOptions,
    how: DetectorOptions,
) -> None:
    """Judge the images that appear in FOLDER against GALLERY, each once, until interrupted."""
    from spade_index.watch.folder import Folder
    from spade_index.watch.loop import Watch
    from spade_index.watch.state import State

    settings = options.settings()
    receivers.require_used()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    to_file = None if jsonl in (None, STDOUT) else jsonl
    require_writable([to_file], [receivers.state], inputs=[folder, *local(gallery)])
    how.loading.limit_decoding()
    latest = Judging(folder.absolute(), gallery, how).latest()
    latest()  # what is wrong with the options or the gallery now ends the command
    lines = [] if receivers.are_given and jsonl is None else [to_file]
    remembered = receivers.folder(folder, gallery)
    with State(remembered) as state, receivers.opened(remembered, lines, Progress.say) as sinks:
        watched = Watch(Folder(str(folder), settings.settle), state, sinks, latest, settings, Progress.say)
        with _stopping(watched.stop):
            complete = watched.run()
    if settings.once and not complete:
        raise InputError("not all images are judged and delivered: the same command carries on")


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at a signal that asks to end; a second SIGINT interrupts."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_IGN)
        stop()

    before = {}
    with suppress(ValueError):  # not the main thread
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before[each] = signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
