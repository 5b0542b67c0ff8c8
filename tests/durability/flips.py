"""Flip a bit anywhere in a gallery: it is found and named, and its repair costs no undamaged image."""

import random
from dataclasses import dataclass
from pathlib import Path, PurePath

import h5py
import numpy as np

from spade_index.errors import SpadeIndexError
from spade_index.gallery import Gallery
from spade_index.gallery.store.shard import row_checksum
from spade_index.gallery.write.writer import GalleryWriter

from durability.model import State, check_next_writer, differs, found_in
from helpers.model import check, features
from helpers.tiny import files_of


@dataclass(frozen=True)
class Flipped:
    """The result of a flipped bit."""

    found: bool
    dropped: int = 0  # images that `repair` dropped
    lost: int = 0  # of them, not damaged


def flip(path: Path, state: State, rng: random.Random, steps: list[str]) -> Flipped:
    """Flip a bit of a gallery with this state, and repair it. Raises AssertionError if the result is wrong."""
    with GalleryWriter(path):  # after a crash, the next writer notes the catalog's bytes
        pass
    file = path / rng.choice(files_in_use(path))
    data = bytearray(file.read_bytes())
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    data[place] ^= 1 << bit
    file.write_bytes(data)
    steps[-1] += f" bit {bit} of byte {place} of {file}"
    problems = problems_of(path)
    if not any(file.name in line for line in problems):
        return Flipped(found=False)
    if file.name == "catalog.sqlite":
        check_refused(path, file, bytes(data))
        return Flipped(found=True)
    damaged = damaged_images(path, file)
    said: list[str] = []
    with GalleryWriter(path) as writer:
        writer.repair(say=said.append)
    return check_repaired(path, state, damaged, said)


def files_in_use(path: Path) -> list[str]:
    """Return the files whose bytes matter.

    An index from before the last compaction is not opened any more. Once a writer has closed, a journal of SQLite's
    belongs to a commit that never began.
    """
    with Gallery(path) as gallery:
        index = gallery.catalog.index(gallery.snapshot)
    used = ("catalog.sqlite", "catalog.check", "shards/*", *(["index/*"] if index else []))
    return [name for name in sorted(files_of(path)) if any(PurePath(name).match(pattern) for pattern in used)]


def problems_of(path: Path) -> list[str]:
    """Return the problems that `verify` finds, or the error of opening the gallery."""
    try:
        with Gallery(path) as gallery:
            return list(gallery.verify())
    except SpadeIndexError as error:
        return [str(error)]


def check_refused(path: Path, file: Path, data: bytes) -> None:
    """Check that a gallery with a damaged catalog is not written to."""
    refusal = None
    try:
        with GalleryWriter(path) as writer:
            writer.repair()
    except SpadeIndexError as error:
        refusal = str(error)
    assert refusal is not None, "a writer opened a gallery with a damaged catalog"
    assert "\n" not in refusal, refusal
    assert file.read_bytes() == data


def check_repaired(path: Path, state: State, damaged: set[tuple[str, int]], said: list[str]) -> Flipped:
    """Check that a gallery is whole again, and that the images it lacks were damaged and are named."""
    with Gallery(path) as gallery:
        problems = list(gallery.verify())
        assert not problems, f"after the repair: {problems}"
        found = found_in(gallery)
        check(gallery, found.live)
        assert not any(differs(gallery, row.id, row.mtime_ns, row) for row in gallery.removed_images())
    check_next_writer(path)
    dropped = {*state.live.items(), *state.offered().items()} - {*found.live.items(), *found.removed.items()}
    named = "\n".join(said).splitlines()
    for id, _ in dropped:
        kind = "" if id in state.live else "the removed "
        assert f"dropped {kind}{id}: it is damaged" in named, f"{id} is gone, and was not named: {said}"
    return Flipped(True, len(dropped), len(dropped - damaged))


def damaged_images(path: Path, file: Path) -> set[tuple[str, int]]:
    """Return id and contents of the images in a file that are damaged when read with h5py alone."""
    with Gallery(path) as gallery:
        shards = {row.file: row.shard for row in gallery.catalog.shards().values()}
        if file.parent.name != "shards":
            return set()
        images = gallery.catalog.images_in(shards[file.name])
    return {(image.id, image.mtime_ns) for image in images if not is_whole(file, image.row, image.id, image.mtime_ns)}


def is_whole(file: Path, row: int, id: str, number: int) -> bool:
    pooled, maps = features(number)
    try:
        with h5py.File(file, "r") as shard:
            stored = [shard["pooled"][row], *(shard[f"maps/{level}"][row] for level in range(len(maps)))]
            thumbnail, name = shard["thumbnail"][row].tobytes(), shard["id"].asstr()[row]
            checksum = int(shard["checksum"][row])
    except Exception:  # h5py raises exceptions of any kind
        return False
    same = all(np.array_equal(computed, read) for computed, read in zip([pooled, *maps], stored, strict=True))
    return same and name == id and checksum == row_checksum(id, pooled, maps, thumbnail)
