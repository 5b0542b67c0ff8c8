"""Values as text for people."""

import math
from typing import Any

import numpy as np


def text_of(value: Any) -> str:
    """Return a value as text: three decimals, or three digits where these would all be 0; a dash for none."""
    if not isinstance(value, float | np.floating):
        return "–" if value is None else str(value)
    number = float(value)
    if math.isnan(number):
        return "–"
    return f"{number:.3f}" if number == 0 or abs(number) >= 0.001 else f"{number:.3g}"
