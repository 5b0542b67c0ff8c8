"""Read a calibration back from the catalog: checked, since anything may be there by now."""

import math
from typing import Any

from spade_index.exact import read_json
from spade_index.gallery.store.names import CALIBRATION
from spade_index.settings import IMAGE_SCORES


def read_calibration(text: str) -> dict[str, Any]:
    """Return a calibration as `calibration.calibrate` gives it. Raises ValueError."""
    value = read_json(text)
    if not isinstance(value, dict):
        raise ValueError("not a calibration")
    thresholds = value.get("thresholds")
    if not isinstance(thresholds, dict) or not thresholds.keys() <= {*IMAGE_SCORES}:
        raise ValueError("unexpected thresholds")
    if not all(map(_is_number, thresholds.values())):
        raise ValueError("a threshold is not a number")
    for name in ("quantile", "false_alarms"):  # earlier versions: the quantile only
        if name in value or name == "quantile":
            share = value.get(name)
            if not isinstance(share, int | float) or not 0 < share < 1:
                raise ValueError(f"unexpected {name}")
    if type(value.get("snapshot")) is not int or not 0 <= value["snapshot"] < 2**62:
        raise ValueError("unexpected snapshot")
    if not isinstance(value.get("search"), str):
        raise ValueError("unexpected search")
    if "file" in value:
        file, digest = value["file"], value.get("digest")
        named = isinstance(file, str) and CALIBRATION.fullmatch(file) and isinstance(digest, str)
        if not named or "false_alarms" not in value:
            raise ValueError("unexpected file")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
