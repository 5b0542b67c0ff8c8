"""A worker that checks the shards of a gallery, in a process of its own on some machine."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spade_index.gallery.catalog.tables import ShardRow
from spade_index.gallery.reader import Gallery
from spade_index.gallery.verify import Problem

from .there import Reader


@dataclass(frozen=True)
class CheckOrder:
    """What all workers are told."""

    folder: str  # that the gallery's path may be relative to
    gallery: Path
    snapshot: int
    identity: str  # of what is there: see `identity_of`


class Checker(Reader):
    """Checks one shard at a time."""

    def __init__(self, order: CheckOrder) -> None:
        self._order = order

    def check(self, shard: ShardRow) -> tuple[list[Problem], int]:
        """Return the problems of a shard, and how many bytes were checked. Raises ClusterError and GalleryError."""
        checked: list[int] = []
        return list(self._gallery.problems_of(shard, checked.append)), sum(checked)

    @cached_property
    def _gallery(self) -> Gallery:
        path = self._order.gallery
        try:
            os.chdir(self._order.folder)  # so that problems name a path as it was given
        except OSError:
            path = self._order.folder / path
        return self.open(path, self._order.snapshot, self._order.identity)
