"""How `query` and `watch` judge images: the search, the backbone, the threshold and what counts of an image."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from spade_index.settings import Maps

from .backbone_options import BackboneOptions
from .cache_options import CacheOptions
from .options import KernelOptions, LoadingOptions, device_option, false_alarms_option, preset_option
from .region_rules import own_roi_option
from .search_options import SearchOptions, maps_option
from .values import REAL

if TYPE_CHECKING:  # they take long to import
    from spade_index.features.backbone import Backbone
    from spade_index.gallery.reader import Gallery
    from spade_index.method.detector import Detector
    from spade_index.method.pixel_search import Elsewhere


@dataclass(frozen=True)
class DetectorOptions:
    """Loads backbones and makes detectors of galleries."""

    threshold: Annotated[
        float | None,
        click.option("--threshold", type=REAL, help="Call images anomalous above this score [the calibrated one]"),
    ]
    false_alarms: Annotated[float | None, false_alarms_option]
    roi: Annotated[Path | None, own_roi_option]
    search: SearchOptions
    maps: Annotated[Maps | None, maps_option]
    preset: Annotated[str | None, preset_option]
    backbone: BackboneOptions
    device: Annotated[str, device_option]
    kernel: KernelOptions
    loading: LoadingOptions
    cache: CacheOptions

    def load(self, gallery: "Gallery") -> "Backbone":
        """Load the backbone of a gallery."""
        return self.backbone.load(self.device, gallery, self.preset)

    def detector(self, gallery: "Gallery", backbone: "Backbone", elsewhere: "Elsewhere | None" = None) -> "Detector":
        """Make the detector of a gallery, as it was tuned unless options say otherwise.

        `elsewhere` are the workers of a cluster.
        """
        from spade_index.method.tuned import tuned_search

        from .detecting import detector_of

        settings = self.search.choice(self.preset, self.maps).settings(tuned_search(gallery))
        return detector_of(gallery, backbone, settings, self.kernel, self.false_alarms, self.threshold, elsewhere)
