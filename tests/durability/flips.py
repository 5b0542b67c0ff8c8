"""A bit flipped anywhere in a gallery: found, named, and repaired without harm to what is not damaged."""

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
    """What became of a bit."""

    found: bool
    dropped: int = 0  # images by `repair`
    lost: int = 0  # of them, those that were not damaged


def flip(path: Path, state: State, rng: random.Random, steps: list[str]) -> Flipped:
    """Flip a bit of a gallery that holds this state, and repair it; raises AssertionError if that goes wrong."""
    with GalleryWriter(path):  # after a crash the catalog's bytes are noted by the next writer
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
    """The files whose bytes matter; not an index of before the last compaction, which nobody opens any more.

    Nor a journal of SQLite's: once a writer has closed, one that is there is of a commit that never began.
    """
    with Gallery(path) as gallery:
        index = gallery.catalog.index(gallery.snapshot)
    used = ("catalog.sqlite", "catalog.check", "shards/*", *(["index/*"] if index else []))
    return [name for name in sorted(files_of(path)) if any(PurePath(name).match(pattern) for pattern in used)]


def problems_of(path: Path) -> list[str]:
    """What `verify` says, also when it cannot even open the gallery."""
    try:
        with Gallery(path) as gallery:
            return list(gallery.verify())
    except SpadeIndexError as error:
        return [str(error)]


def check_refused(path: Path, file: Path, data: bytes) -> None:
    """Nobody writes to a gallery whose catalog is damaged, which stays as it is."""
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
    """The gallery is whole again, what it lacks is named, and was damaged."""
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
    """Id and contents of the images in a file that are not what they should be, when read by h5py alone."""
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
    except Exception:  # whatever h5py comes to
        return False
    same = all(np.array_equal(computed, read) for computed, read in zip([pooled, *maps], stored, strict=True))
    return same and name == id and checksum == row_checksum(id, pooled, maps, thumbnail)
