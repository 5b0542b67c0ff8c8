"""Values as text for people."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from spade_index.gallery.reader import Gallery
from spade_index.wording import number_of

FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # begin a cell that spreadsheets would compute


def text_of(value: Any) -> str:
    """Return a value as text: three decimals, or three digits where these would all be 0; a dash for none."""
    if not isinstance(value, float | np.floating):
        return "–" if value is None else str(value)
    number = float(value)
    if math.isnan(number):
        return "–"
    return f"{number:.3f}" if number == 0 or abs(number) >= 0.001 else f"{number:.3g}"


def cell_of(value: Any) -> str:
    """Return a value as the cell of a table: a text that a spreadsheet would compute begins with an apostrophe."""
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULAS) else text


def worse_than(p_value: float) -> str:
    """Return in words what a p-value says: `looks worse than 98 % of good parts`."""
    share = 100 * (1 - p_value)
    return (
        f"looks worse than {share:.0f} % of good parts"
        if share < 99
        else f"looks worse than {share:.1f} % of good parts"
    )


def likeness_of(known: Mapping[str, Any]) -> str:
    """Return in words which known defect a region is most like: `like known defect "crack", seen in 3 images`."""
    if not known["alike"]:
        return "none of the known defects"
    named = f'known defect "{known["kind"]}"' if known["kind"] else "a known defect without a kind"
    seen = known["seen"]
    return f"like {named}, seen in {number_of(seen, 'image')}"


def size_of(gallery: Gallery) -> str:
    """Return how large a gallery is: `30 images`, or `30 pictures in 510 tiles`."""
    if gallery.settings.preprocessing.tile is None:
        return number_of(len(gallery), "image")
    pictures = number_of(gallery.catalog.picture_count(gallery.snapshot), "picture")
    return f"{pictures} in {number_of(len(gallery), 'tile')}"
