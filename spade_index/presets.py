"""The preset `paper`, and search settings of which only some were asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .settings import Preprocessing, SearchSettings

PAPER_PREPROCESSING = Preprocessing(input_size=(224, 224), resize=256)
PAPER_STRIDES = (4, 8, 16)  # of the levels
PAPER_METRIC_SIZE = 256  # pixels are compared at this edge
PAPER_MAPS = "float16"  # codes change scores a little, and the preset promises the paper's method
PAPER_SEARCH = SearchSettings(
    score_neighbours=50, gallery_neighbours=50, level_weights="equal", image_score="pooled"
)  # Cohen and Hoshen 2020, section 4


@dataclass(frozen=True)
class SearchChoice:
    """Search settings that were asked for; all others are the gallery's own."""

    chosen: Mapping[str, Any] = field(default_factory=dict)  # by field of SearchSettings
    preset: str | None = None  # `paper`, in place of the gallery's own

    def settings(self, own: SearchSettings | None = None) -> SearchSettings:
        """Return all settings for a gallery that is tuned to these. Raises InputError for values that cannot be.

        Weights of levels go with the scaling that they were tuned for: another one has the default weights.
        """
        base = PAPER_SEARCH if self.preset == "paper" else own or SearchSettings()
        if self.chosen.get("scaling", base.scaling) != base.scaling:
            base = replace(base, level_weights=SearchSettings.level_weights)
        return replace(base, **self.chosen)
