"""The image scores of a test set, and the figures that follow from them: about a hundred bytes for each image."""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spade_index.settings import ImageScore

from .detection import Detection
from .metrics import ImageMetrics, image_metrics, roc_auc

SCORES: tuple[ImageScore, ...] = ("pooled", "map", "both")
NEIGHBOURS = (1, 3, 5, 10, 20, 50)  # for which `by_neighbours` reports
VERDICTS = (None, False, True)


class Outcomes:
    """The kind and the scores of each image, in the order of `add`."""

    def __init__(self) -> None:
        self._kinds: list[str] = []
        self._names: dict[str, str] = {}
        self._scores = array("d")
        self._nearest = array("d")
        self._searched: tuple[int, ...] | None = None  # numbers of neighbours that every image has
        self._verdicts = bytearray()

    def __len__(self) -> int:
        return len(self._kinds)

    def add(self, kind: str, detection: Detection) -> None:
        """Keep the scores of an image whose pixels were searched."""
        assert detection.pixels is not None
        distances = [neighbour.distance for neighbour in detection.pixels.neighbours]
        if self._searched is None:
            self._searched = tuple(k for k in NEIGHBOURS if k <= len(distances))
        self._kinds.append(self._names.setdefault(kind, kind))
        self._scores.extend(detection.scores[score] for score in SCORES)
        self._nearest.extend(float(np.mean(distances[:k])) for k in self._searched)
        self._verdicts.append(VERDICTS.index(detection.anomalous))

    @property
    def kinds(self) -> set[str]:
        """The kinds of images, "good" among them."""
        return set(self._names)

    def count(self, kind: str | None = None) -> int:
        """Return the number of images, or of those of a kind."""
        return len(self) if kind is None else self._kinds.count(kind)

    def scores(self, score: ImageScore, kinds: Sequence[str]) -> NDArray[np.float64]:
        """Return an image score of the images of some kinds."""
        return self._table(self._scores, len(SCORES))[self._of(kinds), SCORES.index(score)]

    def metrics(self, score: ImageScore, normal: Sequence[str], defective: Sequence[str]) -> ImageMetrics:
        """Return how well an image score separates some kinds from others."""
        groups = [self.scores(score, kinds) for kinds in (normal, defective)]
        return image_metrics(np.repeat([False, True], [len(group) for group in groups]), np.concatenate(groups))

    def by_neighbours(self, normal: Sequence[str]) -> dict[int, dict[str, float]]:
        """Return the ROC AUC of `pooled` and `both` for each number of score neighbours that was searched."""
        if not self._searched:
            return {}
        labels = ~self._of(normal)
        pooled = self._table(self._nearest, len(self._searched))  # [n, numbers]
        maxima = self._table(self._scores, len(SCORES))[:, SCORES.index("map")]
        return {
            k: {"pooled": roc_auc(labels, pooled[:, at]), "both": roc_auc(labels, pooled[:, at] * maxima)}
            for at, k in enumerate(self._searched)
        }

    def called(self, kinds: Sequence[str]) -> float | None:
        """Return the share of the images of some kinds that are called anomalous; None without verdicts."""
        verdicts = np.frombuffer(bytes(self._verdicts), np.uint8)[self._of(kinds)]
        decided = verdicts[verdicts != VERDICTS.index(None)]
        return float((decided == VERDICTS.index(True)).mean()) if len(decided) else None

    def _of(self, kinds: Sequence[str]) -> NDArray[np.bool_]:
        wanted = set(kinds)
        return np.fromiter((kind in wanted for kind in self._kinds), bool, len(self))

    @staticmethod
    def _table(values: "array[float]", columns: int) -> NDArray[np.float64]:
        return np.frombuffer(values, np.float64).reshape(-1, columns) if len(values) else np.empty((0, columns))
