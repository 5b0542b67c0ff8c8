"""Leave out levels that a gallery does not store: those of earlier versions have fewer than backbones have now."""

from collections.abc import Sequence
from dataclasses import replace

from spade_index.settings import ExtractionSettings


def limited(settings: ExtractionSettings, levels: Sequence[str]) -> ExtractionSettings:
    """Return settings with some of their levels alone; unchanged if they have not all of these, or no others."""
    if not set(levels) < set(settings.levels):
        return settings
    shapes = dict(zip(settings.levels, settings.level_shapes, strict=True))
    return replace(settings, levels=tuple(levels), level_shapes=tuple(shapes[level] for level in levels))
