"""Read the images that clients send, within limits, and have them decoded in other processes."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import xxhash
from PIL import Image
from starlette.requests import Request

from spade_index.errors import ImageError
from spade_index.images.decode import DecodedImage, cut, preprocess
from spade_index.images.files import ImageFile, MaskFile
from spade_index.images.geometry import Geometry
from spade_index.images.interest import RegionOfInterest
from spade_index.images.loading import in_lots, limited
from spade_index.images.plain import decoded, picture, picturing, preparing
from spade_index.images.region_files import own_region
from spade_index.images.tiles import pieces_of
from spade_index.images.workers import DecoderPool, Held, NoDecoder
from spade_index.settings import DecodeLimits, Preprocessing

from .fairness import FairThreads
from .forms import FIELD, MASKS, file_name, read_files
from .metrics import Metrics
from .problems import Problem
from .settings import ServeSettings
from .worker import Worker

TEND_SECONDS = 0.5  # between two looks for processes that died
T = TypeVar("T")
JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s{0,1000}\{")  # what polygons begin with, and no picture
RAW = ("application/octet-stream", "binary/octet-stream")


@dataclass(frozen=True)
class Upload:
    """An image file as it was sent."""

    name: str | None
    data: bytes
    pixels: np.ndarray | None = None  # uint8 [H, W, 3], where they were sent in place of a file
    mask: MaskFile | None = None  # of what counts of it
    mask_number: int = 0  # in its request

    @cached_property
    def digest(self) -> bytes:
        """The xxh3_128 of what was sent."""
        return xxhash.xxh3_128_digest(self.data if self.pixels is None else self.pixels.tobytes())


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


async def read_uploads(request: Request, most: int, *, masks: bool = False) -> list[Upload]:
    """Return the images of a query: those of the form field `images`, or the body itself.

    With `masks`, the field of that name may have one for all of the images, or one for each, in their order. Raises
    Problem (4xx).
    """
    if not is_multipart(request):
        data = await request.body()
        if not data:
            raise Problem(422, "the body is empty: send an image", field=FIELD)
        return [Upload(file_name(request.query_params.get("name")), data)]
    files, beside = _Memory(), _Memory()
    await read_files(request, most, files.begin, begin_mask=beside.begin if masks else None)
    of_all = [_mask(number, name, data) for number, (name, data) in enumerate(beside.files)]
    if len(of_all) not in (0, 1, len(files.files)):
        detail = f"{len(of_all)} for {len(files.files)} images: send one for all of them, or one for each"
        raise Problem(422, detail, field=MASKS)
    uploads = [Upload(name, bytes(data)) for name, data in files.files]
    numbers = range(len(uploads)) if len(of_all) > 1 else [0] * len(uploads)
    return [
        replace(upload, mask=of_all[number], mask_number=number) if of_all else upload
        for upload, number in zip(uploads, numbers, strict=True)
    ]


def _mask(number: int, name: str | None, data: bytearray) -> MaskFile:
    """Return a mask as it was sent: polygons by its name or its beginning, else a picture."""
    held, shown = Held(bytes(data)), name or f"{MASKS}[{number}]"
    if not data:
        raise Problem(422, f"{shown}: is empty: send a picture or polygons", field=f"{MASKS}[{number}]")
    mask = MaskFile.named(shown, held)
    return mask if mask.polygons else replace(mask, polygons=JSON.match(data) is not None)


class _Memory:
    """Keeps the files of a field in memory."""

    def __init__(self) -> None:
        self.files: list[tuple[str | None, bytearray]] = []

    def begin(self, number: int, name: str | None) -> "_Kept":
        """Begin the next file."""
        self.files.append((name, bytearray()))
        return _Kept(self.files[-1][1])


class _Kept:
    """A file that is kept in memory."""

    def __init__(self, data: bytearray) -> None:
        self.write = data.extend

    def close(self) -> None:
        """Do nothing: the memory is kept."""


class Decoders:
    """Processes that decode, a thread for each, and one that replaces those that die while they are idle.

    The threads work for clients in turn: however many images others have sent, a client's next waits for one of
    each of them at most.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        limits = DecodeLimits(settings.image_pixels, settings.decode_bytes, settings.decode_seconds)
        self.queries, self.jobs = DecoderPool(limits), DecoderPool(limits)  # neither takes the other's processes
        self.worker = Worker("decoders", self._turn)
        self._count = settings.decoders
        self._threads = FairThreads(settings.decoders, "decode-uploads")
        self._metrics = metrics
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the processes, and do not wait for them."""
        with suppress(OSError):  # the thread tries again
            self.queries.start(self._count)
        self.worker.start()

    @property
    def alive(self) -> bool:
        """Return whether there are processes to decode with."""
        return bool(self.queries.pids)

    async def decode(self, client: str, uploads: Sequence[Upload], how: Preprocessing) -> list[DecodedImage]:
        """Decode whole images for the backbone. Raises Problem: 422 naming the first that cannot be decoded, 503."""
        wanted = enumerate(uploads)
        return list(await asyncio.gather(*(self._run(client, self._whole, number, one, how) for number, one in wanted)))

    async def tiles(
        self, client: str, number: int, upload: Upload, how: Preprocessing, most: int
    ) -> AsyncIterator[list[DecodedImage]]:
        """Decode a request's image of this number, and yield its pieces in their order, `most` at a time.

        The image is in memory as a whole until then, and of its tiles those that were yielded last. Raises Problem as
        `decode`.
        """
        file, image, notice, region = await self._run(client, self._picture, number, upload, how)
        make = partial(cut, image, file, how, b"", notice, thumbnails=False)
        for lot in in_lots(range(len(pieces_of(image.width, image.height, how))), most):
            yield [limited(tile, region) for tile in await self._run(client, make, lot)]

    async def _run(self, client: str, work: Callable[..., T], *arguments: Any) -> T:
        if self._stopping.is_set():
            raise Problem(503, "the service is shutting down", retry_after=5)
        return await asyncio.wrap_future(self._threads.submit(client, partial(work, *arguments)))

    def stop(self) -> None:
        """End processes and threads, whatever they do."""
        self._stopping.set()
        self.queries.end()
        self.jobs.end()
        self._threads.stop()

    def stats(self) -> dict[str, int]:
        """Return the number of processes that live, and of those that died or were ended for taking too long."""
        pools = (self.queries, self.jobs)
        return {
            "alive": sum(len(pool.pids) for pool in pools),
            "died": sum(pool.died for pool in pools),
            "late": sum(pool.late for pool in pools),
        }

    def _turn(self) -> bool:
        if not self._stopping.is_set():
            self.queries.start(self._count)
        return not self._stopping.wait(TEND_SECONDS)

    def _whole(self, number: int, upload: Upload, how: Preprocessing) -> DecodedImage:
        with self._decoding(FIELD, number, upload) as file:
            if upload.pixels is not None:
                return DecodedImage(file, b"", *preprocess(self._of_pixels(file, upload.pixels), how), b"")
            image = decoded(file, self.queries.answer(preparing(file, how, self.queries.limits.pixels)), how)
        return limited(image, self._region(upload, image.geometry))

    def _picture(
        self, number: int, upload: Upload, how: Preprocessing
    ) -> tuple[ImageFile, Image.Image, str | None, RegionOfInterest | None]:
        with self._decoding(FIELD, number, upload) as file:
            if upload.pixels is not None:
                return file, self._of_pixels(file, upload.pixels), None, None
            call = picturing(file, how, self.queries.limits.pixels, alone=True)
            image, _, notice = picture(file, self.queries.answer(call))
        return file, image, notice, self._region(upload, Geometry.of_size(*image.size))

    def _region(self, upload: Upload, shown: Geometry) -> RegionOfInterest | None:
        """Return the region of interest that came with an image."""
        if upload.mask is None:
            return None
        with self._decoding(MASKS, upload.mask_number, upload) as file:
            return own_region(file, shown, self.queries)

    @contextmanager
    def _decoding(self, of: str, number: int, upload: Upload) -> Iterator[ImageFile]:
        """Give an upload as a file, and take the time; what goes wrong is raised as Problem (422, 503)."""
        begun = time.perf_counter()
        field = f"{of}[{number}]"
        name = upload.name or (field if of == FIELD else "the image")
        try:
            yield ImageFile(name, name, len(upload.data), 0, Held(upload.data), region=upload.mask)
        except ImageError as error:
            raise Problem(422, str(error), field=field) from error
        except MemoryError as error:
            raise Problem(422, f"{name}: too large to decode", field=field) from error
        except NoDecoder as error:
            raise Problem(503, "no process to decode with can be started now", retry_after=5) from error
        self._metrics.stage("decode", time.perf_counter() - begun)

    def _of_pixels(self, file: ImageFile, pixels: np.ndarray) -> Image.Image:
        """Return pixels that were sent as an image: their cost is that of their bytes, so it is done here."""
        height, width, _ = pixels.shape
        if height * width > self.queries.limits.pixels:
            raise ImageError(f"{file.path}: over the limit of {self.queries.limits.pixels:,} pixels")
        return Image.fromarray(pixels)
