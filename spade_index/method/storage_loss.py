"""What storing a gallery's maps by a coarser codec costs, by synthetic defects on its own images."""

from typing import Any

from torch import Tensor

from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.settings import TUNE_SECONDS, SearchSettings

from .as_new import maps_as_new
from .synthetic import Sample, draw_sample
from .trials import Trial, Trials
from .tuned import tuned_search

SHARE_OF_BACKBONE = 0.3  # of the time that tuning may take


class StorageLoss:
    """Measures how well the tuned settings do before the maps of a gallery are stored otherwise, and after it."""

    def __init__(self, gallery: Gallery, backbone: Backbone, seconds: float = TUNE_SECONDS) -> None:
        """Measure on the maps as they are. Raises InputError if too few of the gallery's images can be read."""
        self._sample = draw_sample(gallery, backbone, SHARE_OF_BACKBONE * seconds)
        self._queries = [maps_as_new(gallery, [row]) for row in self._sample.plain]
        self._options = {"device": backbone.device}
        self._search = tuned_search(gallery)
        self.before = self._trial(gallery, self._sample)

    def after(self, gallery: Gallery) -> str:
        """Return in words what was lost, now that the maps are stored otherwise; queries are as they were."""
        rows = [gallery.image(row.id) for row in self._sample.plain]
        now = self._trial(gallery, self._sample.on(rows))
        was = self.before
        return (
            f"on {len(self._sample.owner)} synthetic defects, image ROC AUC {was.image_roc_auc:.4f} -> "
            f"{now.image_roc_auc:.4f}, pixel ROC AUC {was.pixel_roc_auc:.4f} -> {now.pixel_roc_auc:.4f}"
        )

    def _trial(self, gallery: Gallery, sample: Sample) -> Trial:
        found = _ExactTrials(gallery, sample, self._queries, self._options).run(self._search)
        return min(found, key=lambda trial: _distance(trial.search, self._search))


class _ExactTrials(Trials):
    """Trials whose plain images are the maps that were read before they were stored otherwise, as a query's are."""

    def __init__(self, gallery: Gallery, sample: Sample, queries: list[list[Tensor]], options: dict[str, Any]) -> None:
        super().__init__(gallery, sample, **options)
        self._queries = queries

    def plain(self, image: int) -> list[Tensor]:
        """Return all levels of a plain image, float32 [1, H*W, C]."""
        return self._queries[image]


def _distance(one: SearchSettings, other: SearchSettings) -> tuple[float, ...]:
    """Return how far search settings that differ in their scores alone are from each other."""
    return (
        abs(one.subtract_neighbours - other.subtract_neighbours),
        one.relative_score != other.relative_score,
        abs(one.top_share - other.top_share),
        abs(one.smoothing - other.smoothing),
        one.mapped_score != other.mapped_score,
    )
