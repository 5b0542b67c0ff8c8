"""How a folder is watched: the one place of the defaults."""

from dataclasses import dataclass

from spade_index.errors import InputError


@dataclass(frozen=True)
class WatchSettings:
    """When an image is complete, how often to look, and how much may wait."""

    interval: float = 1.0  # seconds between two looks at the folder
    settle: float = 2.0  # seconds for which size and time of a file have not changed, when it is complete
    queue: int = 64  # images that one look takes, the earliest first; the others stay in the folder
    spool: int = 10_000  # verdicts that wait for a receiver; beyond them no more images are judged
    once: bool = False  # end when all images that are there are judged

    def __post_init__(self) -> None:
        """Raise InputError for a value that cannot be."""
        if not (0 < self.interval <= 86_400 and 0 <= self.settle <= 86_400):
            raise InputError("--interval and --settle are seconds, at most a day; --interval is more than 0")
        if self.queue < 1 or self.spool < 1:
            raise InputError("--queue and --spool are at least 1")
