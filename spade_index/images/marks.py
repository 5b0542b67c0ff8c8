"""The mark of the pictures that this package draws, by which a folder is read without them."""

from spade_index.errors import ImageError

SOFTWARE = "spade-index"
HEAD = 1024  # bytes, in which the mark is
# Where Pillow writes a PNG's text, a JPEG's comment and a TIFF's tag `Software`, by the beginnings of such files.
MARKS = {
    b"\x89PNG": b"tEXtSoftware\0" + SOFTWARE.encode(),
    b"\xff\xd8": b"Software: " + SOFTWARE.encode(),
    b"II*\0": SOFTWARE.encode() + b"\0",
    b"MM\0*": SOFTWARE.encode() + b"\0",
}


class OwnOutput(ImageError):
    """An image was drawn by this package, as heat maps are, so it is no photograph."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: drawn by spade-index"


def is_own(data: bytes) -> bool:
    """Return whether a file that begins so was drawn by this package."""
    return any(data.startswith(start) and mark in data[:HEAD] for start, mark in MARKS.items())
