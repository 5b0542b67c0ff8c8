"""Counts in words."""


def number_of(count: int, noun: str) -> str:
    """Return a number of things: `1 image`, `1,200 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def too_few(count: int, noun: str) -> str:
    """Return that a number of things is too few: `1 image is too few`."""
    return f"{number_of(count, noun)} {'is' if count == 1 else 'are'} too few"
