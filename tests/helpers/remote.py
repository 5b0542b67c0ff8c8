"""Push and pull galleries in tests."""

from pathlib import Path

from spade_index.gallery.remote.location import Location
from spade_index.gallery.remote.pull import Pull
from spade_index.gallery.remote.push import Push
from spade_index.gallery.remote.store import Patience

from helpers.s3_server import BUCKET
from helpers.tiny import build, files_of, tiny_backbone, write_images

URL = Location.parse(f"s3://{BUCKET}/line 1/gallery")
QUICK = Patience(retries=2, first_wait=0.01, longest_wait=0.05, request=0.4, in_all=5.0)
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


def contents(gallery: Path) -> dict[str, bytes]:
    """Return the files of a gallery, but for the writer's lock."""
    return {name: (gallery / name).read_bytes() for name in files_of(gallery) - HELD}


def grow(gallery: Path, tmp_path: Path, seed: int) -> None:
    """Add three images to a gallery."""
    write_images(tmp_path / f"more-{seed}" / str(seed), 3, seed)
    build(gallery, tmp_path / f"more-{seed}", tiny_backbone())
