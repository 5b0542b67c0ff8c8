"""Push, pull, and read galleries where they were pushed to, in tests."""

from collections.abc import Sequence
from pathlib import Path

from spade_index.errors import RemoteError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.location import Location
from spade_index.gallery.remote.cache import CacheSettings
from spade_index.gallery.remote.pull import Pull
from spade_index.gallery.remote.push import Push
from spade_index.gallery.remote.reading import RemoteGallery
from spade_index.gallery.remote.store import Patience
from spade_index.images import DecodedImage
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.s3_server import BUCKET, S3, SECRET
from helpers.tiny import build, files_of, tiny_backbone, write_images

URL = Location.parse(f"s3://{BUCKET}/line 1/gallery")
QUICK = Patience(retries=4, first_wait=0.01, longest_wait=0.05, request=0.4, in_all=5.0)
HELD = {"writer.lock"}


def push(gallery: Path, location: Location = URL) -> int:
    """Push a gallery; return the bytes that were sent."""
    with Push(gallery, location, QUICK) as pushed:
        sent = pushed.bytes_to_send
        pushed.send()
    return sent


def pull(target: Path, location: Location = URL) -> int:
    """Pull a gallery; return the bytes that came."""
    with Pull(location, target, QUICK) as pulled:
        return pulled.fetch()


def require_one_line(error: RemoteError, line: str, s3: S3) -> None:
    """Fail unless an error says this in one line that names the gallery, and nothing of the store or of secrets."""
    text = str(error)
    assert line in text
    assert text.startswith(f"{URL}: ")
    assert "\n" not in text
    assert SECRET not in text
    assert s3.url not in text
    assert error.__cause__ is None


def contents(gallery: Path) -> dict[str, bytes]:
    """Return the files of a gallery, but for the writer's lock."""
    return {name: (gallery / name).read_bytes() for name in files_of(gallery) - HELD}


def grow(gallery: Path, tmp_path: Path, seed: int) -> None:
    """Add three images to a gallery."""
    write_images(tmp_path / f"more-{seed}" / str(seed), 3, seed)
    build(gallery, tmp_path / f"more-{seed}", tiny_backbone(), maps=None)


def opened(
    cache: Path, location: Location = URL, *, snapshot: int | None = None, bytes: int = 1 << 30
) -> RemoteGallery:
    """Open a pushed gallery where it is, with a cache of its own."""
    return RemoteGallery(location, snapshot, CacheSettings(cache, bytes), QUICK)


def answers(gallery: Gallery, images: Sequence[DecodedImage], backbone: Backbone) -> list[tuple[object, ...]]:
    """Return all that a detector tells of images, in values that can be compared."""
    detector = Detector(gallery, backbone, SearchSettings(gallery_neighbours=3, maps="always"))
    return [
        (
            detection.scores,
            [(near.id, near.key, near.distance) for near in detection.neighbours],
            None if detection.pixels is None else detection.pixels.score_map.tobytes(),
        )
        for detection in detector.detect(images)
    ]
