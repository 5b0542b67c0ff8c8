"""A progress bar on standard error."""

import sys

from tqdm import tqdm

from .lines import printable


class Progress:
    """A bar with throughput and time left; silent where standard error is no terminal, or there is nothing to do."""

    def __init__(self, what: str, total: int | None = None, unit: str = " images") -> None:
        silent = total == 0 or not sys.stderr.isatty()
        scale = unit == "B"  # to kB, MB and so on
        self._bar = tqdm(desc=what, total=total, unit=unit, unit_scale=scale, disable=silent, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, count: int) -> None:
        """Advance by `count`."""
        self._bar.update(count)

    @staticmethod
    def note(line: str) -> None:
        """Print a line on standard error if that is a terminal."""
        if sys.stderr.isatty():
            Progress.say(line)

    @staticmethod
    def say(line: str) -> None:
        """Print a line on standard error, above the bar."""
        tqdm.write(printable(line), file=sys.stderr)
