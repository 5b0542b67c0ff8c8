"""Commands that messages name, as they must be typed."""

import shlex

from spade_index.gallery.reader import Gallery
from spade_index.presets import PAPER_SEARCH
from spade_index.settings import FALSE_ALARMS, UNSCORED, SearchSettings

from .tuned import calibration_for, tuned_search

NEGATED = {"relative_score": "--absolute-score"}  # options for settings that are on otherwise


def gives_verdicts(gallery: Gallery) -> bool:
    """Return whether verdicts may be expected of a gallery: it was calibrated, or tuned, which `calibrate` follows."""
    return bool(gallery.catalog.calibrations() or gallery.catalog.tuned())


def usual_false_alarms(gallery: Gallery) -> float:
    """Return the share of false alarms that a gallery is calibrated for as it was tuned, or the default."""
    usual = calibration_for(gallery, tuned_search(gallery)) or {}
    return float(usual.get("false_alarms", FALSE_ALARMS))


def calibrate_command(gallery: Gallery, search: SearchSettings) -> str:
    """Return the command that calibrates a gallery for search settings."""
    rate = usual_false_alarms(gallery)
    command = ["spade-index", "calibrate", str(gallery.path)]
    command += [] if rate == FALSE_ALARMS else ["--false-alarms", f"{rate:g}"]
    own, paper = _options(tuned_search(gallery), search), _options(PAPER_SEARCH, search)
    ways = ([] if own is None else [own]) + ([] if paper is None else [["--preset", "paper", *paper]])
    return shlex.join(command + min(ways, key=len, default=[]))  # only settings made in Python are neither


def _options(own: SearchSettings, search: SearchSettings) -> list[str] | None:
    """Return the command line's options that make other settings of a gallery's own; None where there are none."""
    options = []
    for name, value in vars(search).items():
        if name in UNSCORED or value == getattr(own, name):
            continue
        if value is False and name in NEGATED:
            options.append(NEGATED[name])
            continue
        if value is None or value is False:  # that cannot be asked for
            return None
        options.append(f"--{name.replace('_', '-')}")
        if value is not True:
            options.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return options
