"""Is the share of false alarms kept? Random splits of a gallery's images into a smaller gallery and new images.

It is kept on average where new images are like the gallery's. A dataset's own test images may not be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from spade_index.errors import InputError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.leave_one_out import LARGEST, LeaveOneOut
from spade_index.settings import CALIBRATION_SAMPLE, SearchSettings
from spade_index.wording import too_few

from .alone import near_distance
from .as_new import maps_as_new
from .by_neighbours import ByNeighbours
from .detector import Detector
from .normal_scores import NormalScores
from .scores import UNDIVIDED, enlarged, image_scores, map_score
from .siblings import others, place_of_row

RATES = (0.02, 0.05, 0.1)
SHARE = 0.75  # of the images that are the smaller gallery
LEAST = 14  # images: three quarters of them are as many as can be calibrated on
SPARE = 20  # neighbours that are found beyond twice those of a search, so that enough are in the smaller gallery
BYTES = 256 << 20  # of distances in memory


@dataclass(frozen=True)
class Kept:
    """How often new images were called anomalous at a share of false alarms that was asked for."""

    asked: float
    mean: float  # over all splits
    deviation: float  # from split to split


def false_alarms_kept(
    gallery: Gallery,
    search: SearchSettings,
    splits: int,
    *,
    progress: Callable[[int], None] = lambda splits: None,
    **options: Any,
) -> list[Kept]:
    """Return, for each of RATES, the share of false alarms over random splits of up to 1,000 images.

    Args:
        gallery: with at least 14 images.
        search: settings to search with.
        splits: number of splits.
        progress: called with 1 after each.
        options: device, kernel, map_memory and elsewhere, as for `Detector`.

    Raises:
        InputError: the gallery has too few images, or they are tiles.
    """
    if gallery.settings.preprocessing.tile is not None:
        raise InputError(
            f"{gallery.path}: galleries of tiles cannot be split at random: a picture's tiles are not independent"
        )
    if len(gallery) < LEAST:
        raise InputError(f"{gallery.path}: {too_few(len(gallery), 'image')} to split; add at least {LEAST}")
    random = np.random.default_rng(0)
    simulated = _Splits(gallery, search, options)
    rates = []
    for _ in range(splits):
        rates.append(simulated.rates(random))
        progress(1)
    return [
        Kept(asked, float(kept.mean()), float(kept.std())) for asked, kept in zip(RATES, np.array(rates).T, strict=True)
    ]


class _Splits:
    """Searches for every image among each of its neighbours by itself, once; a split takes the least of some."""

    def __init__(self, gallery: Gallery, search: SearchSettings, options: dict[str, Any]) -> None:
        self._detector = Detector(gallery, search=search, calibrated=False, **options)
        wanted = 2 * max(search.gallery_neighbours, search.score_neighbours) + SPARE
        height, width = self._detector.comparison.size
        per_image = 2 * wanted * height * width * search.pixel_neighbours
        self._rows = gallery.sample(max(LEAST, min(CALIBRATION_SAMPLE, BYTES // per_image)))
        near = near_distance(gallery)
        nearest = self._detector.images.nearest(gallery.pooled(self._rows), wanted)
        self._neighbours = [others(found, {row.key}, near) for row, found in zip(self._rows, nearest, strict=True)]
        # All that can be in a smaller gallery: more than the rows where these are a sample of many images.
        self._keys = np.unique([row.key for row in self._rows] + [n.key for of in self._neighbours for n in of])
        self._distances = [
            self._alone(row, of_image) for row, of_image in zip(self._rows, self._neighbours, strict=True)
        ]

    def _alone(self, row: ImageRow, neighbours: list[Neighbour]) -> np.ndarray:
        """Return the kappa least distances of an image's cells to each neighbour's, float16 [K, P, kappa]."""
        detector = self._detector
        pyramid = maps_as_new(detector.gallery, [row])
        queries = [level.expand(len(neighbours), -1, -1) for level in detector.comparison.prepare(pyramid)]
        places = [place_of_row(detector.gallery, row)] * len(neighbours)
        found = detector.search_pixels(queries, [[neighbour] for neighbour in neighbours], places)
        return np.concatenate([pixels.distances.clamp(max=LARGEST).half().cpu().numpy() for pixels in found])

    def rates(self, random: np.random.Generator) -> list[float]:
        """Split once; return the share of the new images that are called anomalous, for each of RATES."""
        detector = self._detector
        keys = set(self._keys[random.permutation(len(self._keys)) < SHARE * len(self._keys)].tolist())
        inside = np.array([row.key in keys for row in self._rows])
        # An image whose neighbours are all outside is searched for in the nearest of them.
        chosen = [[n for n, one in enumerate(of_image) if one.key in keys] or [0] for of_image in self._neighbours]
        nearest = [[of[n] for n in some] for of, some in zip(self._neighbours, chosen, strict=True)]
        most = detector.search.gallery_neighbours
        means = np.stack([self._mean(image, some[:most]) for image, some in enumerate(chosen)])
        alone = LeaveOneOut(np.array([row.key for row in self._rows if row.key in keys]), {}, means[inside])
        near, nowhere = [of_image[:most] for of_image in nearest], [None] * len(nearest)
        own_regions = detector.gallery.region_rule is not None
        own_maps = ByNeighbours(detector.search, NormalScores(alone, own_regions=own_regions))
        less = own_maps.subtracted(torch.from_numpy(means), near, nowhere)
        cells, insides = self._counting()
        share = detector.search.top_share
        of_maps = np.array(
            [map_score(of, share, part) for of, part in zip(detector.score_maps(less, cells), insides, strict=True)]
        )
        own_scores = NormalScores(replace(alone, scores={UNDIVIDED: of_maps[inside]}))
        divisors = ByNeighbours(detector.search, own_scores).divisors(near, nowhere)
        scores = np.array(
            [
                image_scores(detector.pooled_score(of_image), of_map / divisor)[detector.kind]
                for of_image, of_map, divisor in zip(nearest, of_maps, divisors, strict=True)
            ]
        )
        normal = NormalScores(replace(alone, scores={detector.kind: scores[inside]}))
        p_values = np.array([normal.p_value(detector.kind, score) for score in scores[~inside]])
        return [float((p_values <= rate).mean()) for rate in RATES]

    def _counting(self) -> tuple[torch.Tensor | None, Sequence[np.ndarray | None]]:
        """Return the cells, bool [n, P], and the pixels, n of bool [H, W], that count; None where all do."""
        detector = self._detector
        if detector.interest is None:
            return None, [None] * len(self._rows)
        places = [place_of_row(detector.gallery, row) for row in self._rows]
        cells = torch.from_numpy(np.stack([detector.interest.cells(place) for place in places]))
        size = detector.gallery.settings.preprocessing.input_size
        return cells, list(enlarged(cells, detector.comparison.size, size))

    def _mean(self, image: int, chosen: list[int]) -> np.ndarray:
        """Return the mean of the kappa least distances to some of an image's neighbours, float32 [P]."""
        near = self._distances[image][chosen].astype(np.float32)  # [K, P, kappa]
        kappa = near.shape[2]
        least = near.transpose(1, 0, 2).reshape(near.shape[1], -1)
        least = least.min(1, keepdims=True) if kappa == 1 else np.partition(least, kappa - 1, axis=1)[:, :kappa]
        mean: np.ndarray = least.mean(1)
        return mean
