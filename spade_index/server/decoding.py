"""Read the images that clients send, within limits, and decode them in threads."""

import asyncio
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from starlette.requests import Request

from spade_index.errors import ImageError
from spade_index.images.decode import DecodedImage, cut, decode_noted, preprocess
from spade_index.images.find import ImageFile
from spade_index.images.formats import open_image
from spade_index.images.pages import page_offsets
from spade_index.settings import Preprocessing

from .forms import FIELD, file_name, read_files
from .metrics import Metrics
from .problems import Problem
from .settings import ServeSettings

MOST_SCANS = 50  # of a JPEG file; encoders make 20 at most
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")  # of a JPEG file's segments
SCAN, END = b"\xda", b"\xd9"
RAW = ("application/octet-stream", "binary/octet-stream")


@dataclass(frozen=True)
class Upload:
    """An image file as it was sent."""

    name: str | None
    data: bytes
    pixels: np.ndarray | None = None  # uint8 [H, W, 3], where they were sent in place of a file

    def opened(self, name: str, max_pixels: int, how: Preprocessing) -> tuple[Image.Image, str | None]:
        """Return the image, upright and RGB, and a notice about it. Raises ImageError, which names it `name`."""
        if self.pixels is None:
            require_cheap(self.data, name, max_pixels)
            decoded = decode_noted(self.data, name, max_pixels, how)
            return decoded.image, decoded.notice or pages_noted(self.data, name)
        if self.pixels.shape[0] * self.pixels.shape[1] > max_pixels:
            raise ImageError(f"{name}: over the limit of {max_pixels:,} pixels")
        return Image.fromarray(self.pixels), None


def is_multipart(request: Request) -> bool:
    """Return whether the body is a form. Raises Problem (415) if it is neither a form nor an image."""
    kind = request.headers.get("content-type", RAW[0]).partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return True
    if kind.startswith("image/") or kind in RAW:
        return False
    raise Problem(
        415,
        f"{kind[:100]}: send images as multipart/form-data in the field `{FIELD}`, or one as the body (image/*)",
        field="Content-Type",
    )


async def read_uploads(request: Request, most: int) -> list[Upload]:
    """Return the images of a query: those of the form field `images`, or the body itself. Raises Problem (4xx)."""
    if not is_multipart(request):
        data = await request.body()
        if not data:
            raise Problem(422, "the body is empty: send an image", field=FIELD)
        return [Upload(file_name(request.query_params.get("name")), data)]
    files: list[tuple[str | None, bytearray]] = []

    def begin(number: int, name: str | None) -> _Memory:
        files.append((name, bytearray()))
        return _Memory(files[-1][1])

    await read_files(request, most, begin)
    return [Upload(name, bytes(data)) for name, data in files]


class _Memory:
    """A file that is kept in memory."""

    def __init__(self, data: bytearray) -> None:
        self.write = data.extend

    def close(self) -> None:
        """Do nothing: the memory is kept."""


class Decoders:
    """Threads that decode."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self._pool = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode-uploads")
        self._max_pixels = settings.image_pixels
        self._metrics = metrics

    async def decode(self, uploads: Sequence[Upload], how: Preprocessing) -> list[list[DecodedImage]]:
        """Decode images for the backbone; return the parts of each: itself, or its tiles in raster order.

        Raises Problem (422) naming the first that cannot be decoded.
        """
        loop = asyncio.get_running_loop()
        jobs = [
            loop.run_in_executor(self._pool, self._decode, number, upload, how) for number, upload in enumerate(uploads)
        ]
        return list(await asyncio.gather(*jobs))

    def stop(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _decode(self, number: int, upload: Upload, how: Preprocessing) -> list[DecodedImage]:
        begun = time.perf_counter()
        name = upload.name or f"{FIELD}[{number}]"
        try:
            image, notice = upload.opened(name, self._max_pixels, how)
            file = ImageFile(name, name, len(upload.data), 0, lambda: upload.data)
            if how.tile is not None:
                parts = cut(image, file, how, b"", notice)
            else:
                pixels, geometry = preprocess(image, how)
                parts = [DecodedImage(file, b"", pixels, geometry, b"", notice)]
        except (ImageError, MemoryError) as error:
            detail = str(error) or f"{name}: too large to decode"
            raise Problem(422, detail, field=f"{FIELD}[{number}]") from error
        self._metrics.stage("decode", time.perf_counter() - begun)
        return parts


def require_cheap(data: bytes, name: str, most_pixels: int) -> None:
    """Raise ImageError for a file whose header says that decoding it would take too much memory or time.

    A file that is not an image passes: `decode` refuses it.
    """
    if data.startswith(b"\xff\xd8") and _scans(data) > MOST_SCANS:
        raise ImageError(f"{name}: a JPEG file of more than {MOST_SCANS} scans is refused")
    try:
        with open_image(data) as image:
            width, height = image.size
    except Exception:  # Pillow raises exceptions of many kinds on damaged files
        return
    if width * height > most_pixels:
        raise ImageError(f"{name}: {width}x{height} pixels is over the limit of {most_pixels:,}")


def pages_noted(data: bytes, name: str) -> str | None:
    """Return a notice about the pages of a TIFF that are not read."""
    pages = len(page_offsets(lambda offset, size: data[offset : offset + size]))
    return (
        f"{name}: the first of its {pages} pages is read; send the others as files of their own" if pages > 1 else None
    )


def _scans(data: bytes) -> int:
    """Count the scans of a JPEG file, up to a limit: a scan of a few bytes can go over all pixels."""
    scans, at = 0, 2
    while scans <= MOST_SCANS and (marker := MARKER.search(data, at)) and marker[1] != END:
        scans += marker[1] == SCAN
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return scans
