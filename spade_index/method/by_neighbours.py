"""Compare an image with what its neighbours themselves score: their maps are subtracted, their map scores divide its.

So textures that are always hard to match stop counting, and an image of a kind that all score high is not called
anomalous for being of that kind. What images of the gallery score, each searched for without itself, comes with
calibration.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spade_index.gallery.index.search import Neighbour
from spade_index.images.geometry import Geometry
from spade_index.settings import SearchSettings

from .normal_scores import NormalScores
from .siblings import is_whole


@dataclass(frozen=True)
class ByNeighbours:
    """What search settings take of the scores that a gallery's own images have; without these, nothing."""

    search: SearchSettings
    normal: NormalScores | None

    def subtracted(
        self, distances: Tensor, near: Sequence[Sequence[Neighbour]], places: Sequence[Geometry | None]
    ) -> Tensor:
        """Subtract a share of the mean map of each query's neighbours from its distances, float32 [B, P].

        Args:
            distances: of the queries' cells, float32 [B, P].
            near: the neighbours of each query.
            places: of the queries in their pictures, where that is known.
        """
        share = self.search.subtract_neighbours
        if not share or self.normal is None:
            return distances
        own = np.stack([self.normal.own_map(*of) for of in _asked(near, places)])
        return distances - share * torch.from_numpy(own).to(distances.device)

    def divisors(self, near: Sequence[Sequence[Neighbour]], places: Sequence[Geometry | None]) -> list[float]:
        """Return what the map score of each of B queries is divided by, above 0; arguments are as for `subtracted`."""
        if not self.search.relative_score or self.normal is None:
            return [1.0] * len(near)
        return [self.normal.own_score(*of) for of in _asked(near, places)]


def needs_own_scores(search: SearchSettings) -> bool:
    """Return whether scores depend on what the gallery's own images score."""
    return search.subtract_neighbours > 0 or search.relative_score


def plain_search(search: SearchSettings) -> SearchSettings:
    """Return settings that find score maps of every image, whatever the neighbours themselves score."""
    return replace(search, maps="always", image_score=None, subtract_neighbours=0.0, relative_score=False)


def _asked(near: Sequence[Sequence[Neighbour]], places: Sequence[Geometry | None]) -> list[tuple[list[int], bool]]:
    keys = ([neighbour.key for neighbour in neighbours] for neighbours in near)
    return list(zip(keys, map(is_whole, places), strict=True))
