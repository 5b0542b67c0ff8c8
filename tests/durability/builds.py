"""The build that the crash tests interrupt, and what a gallery holds and answers after it."""

from pathlib import Path
from typing import Any

import pytest

from spade_index.errors import GalleryNotFound
from spade_index.gallery import Gallery
from spade_index.images import find_images, load
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.decoding_here import HERE
from helpers.tiny import build, tiny_backbone, write_images

BACKBONE = tiny_backbone()
IMAGES = 20
ROWS = 3  # of a shard
SEARCH = SearchSettings(gallery_neighbours=6)


def carry_on(path: Path, images: Path) -> Any:
    """Start the build, or carry it on."""
    return build(path, images, BACKBONE, shard_rows=ROWS, batch_size=ROWS, decoders=HERE)


def answers(path: Path, search: SearchSettings = SEARCH) -> list[Any]:
    """Return ids, nearest images and score maps, to be compared bit by bit."""
    folder = write_images(path.parent / "queries", 2, seed=9)
    queries = [load(file, BACKBONE.settings.preprocessing) for file in find_images(folder)]
    with Gallery(path) as gallery:
        detections = Detector(gallery, BACKBONE, search).detect(queries)
        rows = [(row.key, row.id, row.shard, row.row) for row in gallery.images()]
    return [rows, [(d.scores, d.neighbours, d.pixels.score_map.tobytes()) for d in detections]]


def committed(path: Path) -> int:
    """Return the number of images in a gallery, all of them checked; 0 if there is no gallery yet."""
    if not (path / "catalog.sqlite").exists():
        with pytest.raises(GalleryNotFound):
            Gallery(path)
        return 0
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        rows = list(gallery.images())
        assert len(rows) == len(gallery)
        for row in rows:
            gallery.maps([row.key])
            assert gallery.nearest(gallery.pooled([row]), 1)[0][0].id == row.id
        return len(rows)
