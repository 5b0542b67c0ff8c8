"""The names that files of a gallery have: those a catalog may name, and those a writer may delete."""

import re

SHARD = re.compile(r"(\d{6,19})\.h5")
INDEX = re.compile(r"(\d{6,19})(?:-\d{1,9})?\.faiss")  # begins with its snapshot
CALIBRATION = re.compile(r"(\d{6,19})(?:-\d{1,9})?\.h5")
MAKER = re.compile("[0-9a-f]{32}")  # a folder of shards that another process makes
DESCRIPTORS = CALIBRATION  # beside an index


def shard_name(number: int) -> str:
    """Return the name of a shard's file."""
    return f"{number:06d}.h5"


def snapshot_name(snapshot: int, number: int, suffix: str) -> str:
    """Return the name of the `number`-th file that was made at a snapshot, from 1."""
    return f"{snapshot:06d}{f'-{number}' if number > 1 else ''}{suffix}"
