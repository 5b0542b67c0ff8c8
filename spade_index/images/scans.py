"""Look into JPEG files, and refuse those that take long to decode: a scan of a few bytes can go over all pixels."""

import re

from .formats import Refused

MOST_SCANS = 50  # of a JPEG file; encoders make 20 at most
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")  # of a JPEG file's segments
SCAN, END = b"\xda", b"\xd9"
NO_FRAME = (0xC4, 0xC8, 0xCC)  # markers among those of frames: tables


def require_few_scans(data: bytes) -> None:
    """Raise Refused for a JPEG file of more scans than encoders make. Other files pass."""
    if data.startswith(b"\xff\xd8") and _scans(data) > MOST_SCANS:
        raise Refused(f"a JPEG file of more than {MOST_SCANS} scans is refused")


def _scans(data: bytes) -> int:
    """Count the scans of a JPEG file, up to a limit."""
    scans, at = 0, 2
    while scans <= MOST_SCANS and (marker := MARKER.search(data, at)) and marker[1] != END:
        scans += marker[1] == SCAN
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return scans


def precision(data: bytes) -> int:
    """Return the bits of a JPEG file's pixels, which its frame states; 0 for other files."""
    at = 2
    while data.startswith(b"\xff\xd8") and (marker := MARKER.search(data, at)) and marker[1] not in (SCAN, END):
        if 0xC0 <= marker[1][0] <= 0xCF and marker[1][0] not in NO_FRAME:
            return int.from_bytes(data[marker.end() + 2 : marker.end() + 3])
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return 0
