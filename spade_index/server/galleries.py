"""The galleries of one root: opened on demand, closed by a memory budget, always at the last commit.

A Detector is for one thread, so the galleries kept open here are used by the engine alone. Other callers open a gallery
for themselves (`Galleries.open`), which takes milliseconds.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from spade_index.errors import InputError, SpadeIndexError
from spade_index.features.backbone import Backbone, load_recorded
from spade_index.gallery.reader import Gallery
from spade_index.method.commands import calibrate_command, gives_verdicts
from spade_index.method.detector import Detector
from spade_index.method.pixel_search import Elsewhere
from spade_index.method.tuned import tuned_search
from spade_index.settings import ExtractionSettings, Maps

from .problems import Problem
from .roots import FolderRoot, root_of
from .settings import ServeSettings

OPEN_BYTES = 64 << 20  # what an open gallery takes besides its maps, about

LoadBackbone = Callable[[Gallery, str], Backbone]

log = logging.getLogger("spade_index.server")


def backbone_of(gallery: Gallery, device: str) -> Backbone:
    """Load the backbone that a gallery was built with."""
    return load_recorded(gallery.settings, gallery.catalog.meta("weights_file"), device)


@dataclass(eq=False)
class Served:
    """A gallery that is open for queries."""

    gallery: Gallery
    backbone: Backbone
    detector: Detector
    identity: Hashable  # see `roots`
    version: int  # of the catalog's contents, when it was opened
    used: float = field(default_factory=time.monotonic)

    @property
    def bytes(self) -> int:
        """Return the memory that it takes, approximately."""
        return OPEN_BYTES + self.detector.pixel_search.map_bytes

    @property
    def default_maps(self) -> Maps:
        """Return the default of `maps`."""
        return default_maps(self.detector)


def default_maps(detector: Detector) -> Maps:
    """Return the default of `maps`: `auto` where a threshold of the pooled score is calibrated, else `always`.

    A tuned gallery is judged by its score maps, whose search is as quick as the backbone.
    """
    by_map = detector.search.image_score not in (None, "pooled") or detector.gallery.is_limited
    needs_all = by_map or detector.gallery.catalog.tuned() is not None
    return "always" if needs_all or "pooled" not in detector.thresholds else "auto"


class Galleries:
    """Finds galleries by name."""

    def __init__(
        self, settings: ServeSettings, load: LoadBackbone = backbone_of, elsewhere: Elsewhere | None = None
    ) -> None:
        """`load` makes a gallery's backbone; `elsewhere` searches maps, if not this process."""
        self._settings = settings
        self._root = root_of(settings)
        self.root = str(self._root.name)  # as errors name it
        self.folder = self._root.folder  # for jobs
        self._load = load
        self._elsewhere = elsewhere
        self._open: OrderedDict[tuple[str, int | None], Served] = OrderedDict()  # the least recently used first
        self._retired: list[Served] = []
        self._hits = self._misses = 0  # of maps, in galleries that are closed
        self._backbones: WeakValueDictionary[tuple[ExtractionSettings, str | None], Backbone] = WeakValueDictionary()
        self._loading = threading.Lock()
        self._to_reload: set[str] = set()
        self._known: dict[str, tuple[Hashable, ExtractionSettings]] = {}

    def names(self) -> list[str]:
        """Return the names of all galleries, sorted."""
        return self._root.names()

    @property
    def read_only(self) -> bool:
        """Whether no gallery can be changed."""
        return self._root.read_only

    def require(self, name: str) -> None:
        """Raise Problem (404) unless there is a gallery of this name."""
        if not self._root.holds(name):
            raise self._unknown(name)

    def path(self, name: str) -> Path:
        """Return the folder of a gallery that is to be changed. Raises Problem (403, 404)."""
        self.require(name)
        if isinstance(self._root, FolderRoot):
            return self._root.path(name)
        detail = f"gallery {name!r} is in an object store, where it can only be read: change the one it was pushed from"
        raise Problem(403, detail, field="gallery")

    def open(self, name: str, snapshot: int | None = None) -> Gallery:
        """Open a gallery for the caller alone, at a snapshot or the latest. Raises Problem (404), GalleryError."""
        self.require(name)
        try:
            return self._root.open(name, snapshot)
        except InputError as error:
            raise Problem(404, f"gallery {name!r} has no snapshot {snapshot} (any more)", field="snapshot") from error

    def written(self, name: str) -> Hashable:
        """Return what changes when a gallery does, or another takes its name. Raises OSError where it is gone."""
        return self._root.written(name)

    def identity(self, name: str) -> Hashable:
        """Return what changes when another gallery takes the name alone. Raises OSError where it is gone."""
        return self._root.identity(name)

    def settings_of(self, name: str) -> ExtractionSettings:
        """Return the settings that a gallery was built with; cached, since they never change."""
        self.require(name)
        with suppress(FileNotFoundError):
            written = self._root.written(name)
            known = self._known.get(name)
            if known is None or known[0] != written:
                with self.open(name) as gallery:
                    known = self._known[name] = written, gallery.settings
            return known[1]
        raise self._unknown(name)

    def backbone(self, gallery: Gallery) -> Backbone:
        """Return the backbone of a gallery. Galleries that were built with the same one share it."""
        key = gallery.settings, gallery.catalog.meta("weights_file")
        with self._loading:
            backbone = self._backbones.get(key)
            if backbone is None:
                backbone = self._backbones[key] = self._load(gallery, self._settings.device)
            return backbone

    def detector(self, gallery: Gallery, backbone: Backbone, elsewhere: Elsewhere | None = None) -> Detector:
        """Return a detector with the service's options, for the caller's thread."""
        return Detector(
            gallery,
            backbone,
            self._settings.search.settings(tuned_search(gallery)),
            kernel=self._settings.kernel,
            map_memory=self._settings.map_memory,
            elsewhere=elsewhere,
        )

    def reload(self, name: str) -> None:
        """Reopen a gallery at its next use."""
        self.require(name)
        self._root.look_again()
        self.reopen(name)

    def reopen(self, name: str) -> None:
        """Do the same for a gallery that may be gone."""
        self._to_reload.add(name)

    def is_open(self, name: str) -> bool:
        """Return whether a gallery is open for queries."""
        return any(key[0] == name for key in list(self._open))

    def use(self, name: str, snapshot: int | None = None) -> Served:
        """Return a gallery to query, at a snapshot or at the latest commit.

        Raises Problem (404), GalleryError, BackboneError.
        """
        key = name, snapshot
        self.require(name)
        if name in self._to_reload:
            self._to_reload.discard(name)
            for other in [other for other in self._open if other[0] == name]:
                self._retire(other)
        served = self._open.get(key)
        if served is None or self._outdated(served, name, snapshot):
            renewed = self._opened(name, snapshot)  # while the one before holds the backbone that both have
            if served is not None:
                self._retire(key)
            self._open[key] = served = renewed
        self._open.move_to_end(key)
        served.used = time.monotonic()
        return served

    def tidy(self) -> None:
        """Close galleries that are over the budget, unused for long, or behind a commit. Called between batches."""
        now = time.monotonic()
        while self._retired:
            self._end(self._retired.pop())
        for key, served in list(self._open.items()):
            over = sum(served.bytes for served in self._open.values()) > self._settings.memory
            idle = now - served.used > self._settings.idle_seconds
            try:
                if over or idle or self._outdated(served, *key):
                    self._close(key)
            except (SpadeIndexError, Problem, OSError):
                self._close(key)

    def close(self) -> None:
        """Close all galleries."""
        for key in list(self._open):
            self._retire(key)
        self.tidy()

    def pool_stats(self) -> dict[str, int]:
        """Return the number of open galleries, their memory, and the counts of maps found in memory and read."""
        opened = [*self._open.values(), *self._retired]
        stats = [served.detector.pixel_search.map_stats for served in opened]
        return {
            "open": len(opened),
            "bytes": sum(served.bytes for served in opened),
            "hits": self._hits + sum(found.hits for found in stats),
            "misses": self._misses + sum(found.misses for found in stats),
        }

    def _opened(self, name: str, snapshot: int | None) -> Served:
        gallery = self.open(name, snapshot)
        try:
            identity, version = self._root.identity(name), gallery.catalog.data_version()
            if snapshot is None:
                gallery.at()  # what was committed before its version was asked for
            if not len(gallery):
                raise Problem(409, f"gallery {name!r} is empty: add normal images first", field="gallery")
            backbone = self.backbone(gallery)
            detector = self.detector(gallery, backbone, self._elsewhere)
            if detector.calibrated_on is None and gives_verdicts(gallery):
                command = calibrate_command(gallery, detector.search)
                log.warning("not calibrated for the service's options, so without verdicts: `%s` changes that", command)
        except BaseException:
            gallery.close()
            raise
        return Served(gallery, backbone, detector, identity, version)

    def _unknown(self, name: str) -> Problem:
        return Problem(404, f"no gallery {name[:100]!r}; GET /v1/galleries names them", field="gallery")

    def _outdated(self, served: Served, name: str, snapshot: int | None) -> bool:
        """Return whether something was committed since it was opened, or another gallery has taken its place."""
        if self._root.identity(name) != served.identity:
            return True
        return snapshot is None and served.gallery.catalog.data_version() != served.version

    def _retire(self, key: tuple[str, int | None]) -> None:
        """Stop using a gallery. `tidy` closes it, since images of the same batch may still be searched for in it."""
        self._retired.append(self._open.pop(key))

    def _close(self, key: tuple[str, int | None]) -> None:
        self._end(self._open.pop(key))

    def _end(self, served: Served) -> None:
        stats = served.detector.pixel_search.map_stats
        self._hits += stats.hits
        self._misses += stats.misses
        served.detector.pixel_search.close()
        served.gallery.close()
