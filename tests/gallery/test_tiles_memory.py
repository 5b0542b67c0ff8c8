"""Adding large pictures takes memory for a few of them at a time, however many there are."""

import io
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.files import ImageFile
from spade_index.images.loading import PICTURES

from helpers.tiled import tiled_settings
from helpers.tiny import image_file, tiny_backbone

SIZE = (2400, 1600)
PICTURE = 4 * SIZE[0] * SIZE[1]  # bytes, decoded


@cache
def large_jpeg() -> bytes:
    buffer = io.BytesIO()
    columns = np.arange(SIZE[0]) // 7 % 256
    Image.fromarray(np.broadcast_to(columns.astype(np.uint8), SIZE[::-1])).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def large_picture(number: int) -> ImageFile:
    return image_file(f"{number}.jpg", large_jpeg() + str(number).encode())


def peak() -> int:
    """Return the most bytes that this process has had in memory."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def growth(path: Path, pictures: int, workers: int) -> int:
    """Return by how many bytes the peak grows when this number of pictures is added, after a few."""
    with GalleryWriter(path, tiled_settings(tile=400)) as writer:
        backbone = tiny_backbone()
        few = writer.add(map(large_picture, range(-PICTURES, 0)), backbone, workers=workers)
        before = peak()
        report = writer.add(map(large_picture, range(pictures)), backbone, workers=workers)
        assert (report.added, len(writer.gallery)) == (pictures, few.tiles + report.tiles)
        return peak() - before


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        grown = child.submit(partial(growth, tmp_path / "gallery", 8 * PICTURES, workers=16)).result()
    assert grown < 4 * PICTURES * PICTURE  # with freed memory that the C library keeps: 2.1 * PICTURES were seen
