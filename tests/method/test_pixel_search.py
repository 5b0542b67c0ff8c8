"""Queries share launches of the pixel search as far as the map pool has room."""

from pathlib import Path

import pytest
import torch

from spade_index.gallery import Gallery
from spade_index.gallery.index.search import Neighbour
from spade_index.kernels import choose_kernel
from spade_index.method.comparison import Comparison
from spade_index.method.pixel_search import PixelSearch
from spade_index.settings import SearchSettings


def search_in(gallery: Gallery, slots: int) -> PixelSearch:
    """Return a search whose pool has this number of slots."""
    device = torch.device("cpu")
    settings = SearchSettings(gallery_neighbours=2)
    memory = slots * gallery.settings.map_bytes
    return PixelSearch(gallery, settings, Comparison(gallery, settings), choose_kernel(device), device, memory)


def neighbours(gallery: Gallery, *positions: int) -> list[Neighbour]:
    """Return images of the gallery as neighbours."""
    rows = list(gallery.images())
    return [Neighbour(rows[position].id, rows[position].key, 0.0) for position in positions]


@pytest.mark.parametrize(("slots", "launches"), [(4, [(0, 1), (1, 3)]), (8, [(0, 3)])])
def test_a_launch_takes_half_of_the_pool(gallery_path: Path, slots: int, launches: list[tuple[int, int]]) -> None:
    with Gallery(gallery_path) as gallery:
        pyramid = [
            torch.zeros(3, height * width, channels) for channels, height, width in gallery.settings.level_shapes
        ]
        candidates = [neighbours(gallery, 0, 1), neighbours(gallery, 2, 3), neighbours(gallery, 3, 2)]
        found = list(search_in(gallery, slots).nearest(pyramid, candidates))
    assert [(launch.queries.start, launch.queries.stop) for launch in found] == launches
    assert [len(launch.distances) for launch in found] == [len(launch.queries) for launch in found]


def test_no_memory_is_taken_before_the_first_query(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery:
        search = search_in(gallery, 4)
        assert search.map_bytes == 0
        assert search.map_stats.misses == 0
        assert list(search.nearest([torch.zeros(0, 1, 1)], [])) == []
        assert search.map_bytes == 0
