"""Read a gallery's settings back from the catalog: checked, since anything may be there by now."""

import math

from spade_index.errors import InputError
from spade_index.settings import ExtractionSettings

LARGEST = 1 << 20  # channels, or pixels of an edge, of any backbone
MOST_VALUES = 1 << 29  # of an image's maps; at 4096 x 4096 pixels WideResNet50-2 has 470 million


def read_settings(text: str) -> ExtractionSettings:
    """Return the settings that `ExtractionSettings.to_json` wrote. Raises ValueError."""
    try:
        settings = ExtractionSettings.from_json(text)
        plausible = _is_plausible(settings)
    except (AttributeError, InputError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(str(error)) from error
    if not plausible:
        raise ValueError("not those of a backbone")
    return settings


def _is_plausible(settings: ExtractionSettings) -> bool:
    """Return whether a backbone can have such settings. May raise TypeError."""
    how = settings.preprocessing
    sizes = [settings.pooled_dim, *how.input_size, *(edge for shape in settings.level_shapes for edge in shape)]
    sizes += [edge for edge in (how.resize, settings.stored_grid) if edge is not None]
    return (
        all(type(size) is int and 0 < size <= LARGEST for size in sizes)
        and all(isinstance(name, str) for name in (settings.backbone, settings.weights, *settings.levels))
        and 0 < len(settings.levels) == len(settings.level_shapes)
        and {len(shape) for shape in settings.level_shapes} == {3}
        and sum(map(math.prod, settings.level_shapes)) <= MOST_VALUES
        and (len(how.input_size), len(how.mean), len(how.std)) == (2, 3, 3)
        and all(math.isfinite(value) for value in (*how.mean, *how.std))
        and how.interpolation in ("bilinear", "bicubic")
        and settings.precision in ("float32", "bfloat16")
    )
