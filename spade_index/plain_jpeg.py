"""Small JPEG files of the plain kind, decoded without Pillow's reading of headers, which costs more than the pixels.

Pillow looks at a JPEG's headers in Python, for much that has no bearing on pixels. A file with nothing but tables, a
frame and a scan can go to its decoder at once. Everything else, and whatever that decoder does not like, is left to
`Image.open`: so what is made here is what that makes, and errors are its errors.
"""

from PIL import Image

LARGEST = 16 << 10  # bytes of a file; Pillow hands its decoder blocks of 64 kB
FRAMES = {(11, 1): "L", (17, 3): "RGB"}  # by a frame's length and components
TABLES = (67, 132)  # lengths of one and of two tables of 8 bits
JFIF, QUANTIZATION, FRAME, HUFFMAN, SCAN = 0xE0, 0xDB, 0xC0, 0xC4, 0xDA


def decode_plain(data: bytes, edge: int) -> Image.Image | None:
    """The image of mode L or RGB in a file's bytes, or None if they are anything but a small plain JPEG.

    That is a baseline one without EXIF, profiles or comments, of at most LARGEST bytes, and `edge` pixels either way.
    """
    if len(data) > LARGEST or data[:3] != b"\xff\xd8\xff":
        return None
    try:
        mode, width, height = _frame(data)
        if 0 < width <= edge and 0 < height <= edge:
            return Image.frombytes(mode, (width, height), data, "jpeg", (mode, ""))
    except Exception:  # nothing that is wrong with it is found here
        pass
    return None


def _frame(data: bytes) -> tuple[str, int, int]:
    """Mode, width and height. Raises ValueError, KeyError or IndexError for what is not plain."""
    found: list[tuple[str, int, int]] = []
    place = 2
    while data[place] == 0xFF:
        marker, length = data[place + 1], data[place + 2] << 8 | data[place + 3]
        if marker == SCAN:
            (frame,) = found
            return frame
        if marker == FRAME and data[place + 4] == 8:  # bits
            mode = FRAMES[length, data[place + 9]]
            found.append((mode, data[place + 7] << 8 | data[place + 8], data[place + 5] << 8 | data[place + 6]))
        elif marker == QUANTIZATION:
            if length not in TABLES or any(data[at] > 3 for at in range(place + 4, place + 2 + length, 65)):
                raise ValueError
        elif marker == JFIF:
            if length != 16 or data[place + 4 : place + 9] != b"JFIF\0":
                raise ValueError
        elif marker != HUFFMAN:
            raise ValueError
        place += 2 + length
    raise ValueError
