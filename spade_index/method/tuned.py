"""How a gallery is searched where nothing else is asked for, as it was tuned or by the fixed defaults, and calibrated.

Nothing here imports torch: commands that only tell of a gallery are quick.
"""

from dataclasses import fields, replace
from typing import Any

from spade_index.errors import GalleryDamaged, InputError
from spade_index.gallery.catalog.check import REMEDY
from spade_index.gallery.changes import changes_since_tuning
from spade_index.gallery.compared import levels_inside
from spade_index.gallery.reader import Gallery
from spade_index.settings import SearchSettings

CHANGED = 0.2  # share of the tuned images added or removed since, from which a gallery should be tuned again


def tuned_search(gallery: Gallery) -> SearchSettings:
    """Return the settings that a gallery was tuned to, or the defaults. Raises GalleryDamaged."""
    by_map: dict[str, Any] = {"mapped_score": "map"} if gallery.is_limited else {}  # see `interested`
    tuned = gallery.catalog.tuned()
    if tuned is None:
        return SearchSettings(**by_map)
    known = {setting.name for setting in fields(SearchSettings)}
    try:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in tuned["search"].items()
            if name in known
        }
        _require_types(values, len(gallery.settings.levels))
        if gallery.is_limited and values.get("compared_levels"):  # the region may have been set after tuning
            values["compared_levels"] = levels_inside(gallery.settings, values["compared_levels"])
        return SearchSettings(**(values | by_map))
    except (InputError, TypeError) as error:
        raise GalleryDamaged(
            f"{gallery.catalog.path}: the tuned settings cannot be used ({error}); {REMEDY}"
        ) from error


def calibration_for(gallery: Gallery, search: SearchSettings) -> dict[str, Any] | None:
    """Return what the catalog keeps of the calibration for search settings, in values for JSON, or None.

    Raises GalleryDamaged.
    """
    wanted = gallery.calibration_key(search)
    return next((one for one in gallery.catalog.calibrations() if one["search"] == wanted), None)


def interested(gallery: Gallery, search: SearchSettings) -> SearchSettings:
    """Return search settings for a gallery, whose image score is that of the map where there is a region of interest.

    Raises InputError for settings that a region does not go with.
    """
    if not gallery.is_limited:
        return search
    path = f"{gallery.path}: the gallery has a region of interest, "
    if search.image_score not in (None, "map"):
        raise InputError(f"{path}and image score `{search.image_score}` is of whole images: use `map`")
    if search.maps != "always":
        raise InputError(f"{path}so every image needs its score map: use maps `always`, not `{search.maps}`")
    if search.mode == "per-level":
        raise InputError(f"{path}and levels that are searched separately cannot keep to it: use another mode")
    return replace(search, mapped_score="map")


def _require_types(values: dict[str, Any], levels: int) -> None:
    """Raise TypeError for values that `tuning.tune` never chooses: they were read from a file."""
    defaults = vars(SearchSettings())
    for name, value in values.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if name == "compared_levels":
            fits = value is None or all(type(level) is int and level < levels for level in numbers)
        elif name == "level_weights":
            fits = isinstance(value, str) or (len(numbers) == levels and all(map(_is_number, numbers)))
        elif name in ("grid", "window"):
            fits = value is None or type(value) is int
        elif name == "image_score":
            fits = value is None or isinstance(value, str)
        elif isinstance(defaults[name], float):
            fits = _is_number(value)
        else:
            fits = type(value) is type(defaults[name])
        if not fits:
            raise TypeError(f"unexpected {name}")


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def should_tune_again(gallery: Gallery) -> bool:
    """Return whether so many images were added or removed since a gallery was tuned that it should be tuned again."""
    tuned = gallery.catalog.tuned()
    if tuned is None:
        return False
    return bool(changes_since_tuning(gallery) > CHANGED * tuned["images"])


def why_searched(gallery: Gallery, search: SearchSettings) -> str:
    """Return in one line why a gallery is searched with these settings: as it was tuned, or as they were given."""
    tuned = gallery.catalog.tuned()
    if tuned is not None and tuned_search(gallery).calibration_key() == search.calibration_key():
        return str(tuned["why"])
    return "settings that were given" if search.calibration_key() != SearchSettings().calibration_key() else "defaults"
